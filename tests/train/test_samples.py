"""Sample pictures: each image beside what the network made of it."""

from pathlib import Path

import cv2
import numpy as np
import torch
from tiny_training import CONFIG, tiny_model, write_bands

from mask2edge.train.samples import WIDTH, SamplePictures
from mask2edge.train.torch_session import torch_segmenter
from mask2edge.train.train import build_spec


def test_a_sheet_shows_images_beside_their_overlays(tmp_path: Path) -> None:
    training, _ = write_bands(tmp_path)
    spec, model = build_spec(CONFIG, training.labels), tiny_model(seed=0).eval()
    sheet = SamplePictures(training, spec, count=3)(model)
    height = WIDTH * 48 // 64
    assert (sheet.shape, sheet.dtype) == ((3 * height, 2 * WIDTH, 3), np.uint8)
    for row, index in enumerate((0, 2, 4)):  # spread over the five images
        image = cv2.imread(str(tmp_path / f"train/{index}.png"))
        overlay = torch_segmenter(model, spec)(image, task="semantic").draw(image)
        for column, picture in enumerate((image, overlay)):
            shown = sheet[row * height : (row + 1) * height, column * WIDTH : (column + 1) * WIDTH]
            wanted = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
            assert np.array_equal(shown, wanted)
    assert torch.is_grad_enabled()


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    training, _ = write_bands(tmp_path)
    (tmp_path / "train/2.png").write_bytes(b"")
    spec = build_spec(CONFIG, training.labels)
    assert len(SamplePictures(training, spec, count=3)(tiny_model(seed=0).eval())) == 2 * WIDTH * 48 // 64


def test_few_images_are_all_shown(tmp_path: Path) -> None:
    _, validation = write_bands(tmp_path)
    spec = build_spec(CONFIG, validation.labels)
    assert len(SamplePictures(validation, spec)(tiny_model(seed=0).eval())) == 2 * WIDTH * 48 // 64
