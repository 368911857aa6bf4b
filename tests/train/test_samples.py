"""Sample pictures: each image beside what the network made of it."""

import dataclasses
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
    assert sheet is not None
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
    sheet = SamplePictures(training, spec, count=3)(tiny_model(seed=0).eval())
    assert sheet is not None
    assert len(sheet) == 2 * WIDTH * 48 // 64


def test_no_picture_where_no_image_can_be_read(tmp_path: Path) -> None:
    training, _ = write_bands(tmp_path)
    for index in range(5):
        (tmp_path / f"train/{index}.png").write_bytes(b"")
    spec = build_spec(CONFIG, training.labels)
    assert SamplePictures(training, spec, count=3)(tiny_model(seed=0).eval()) is None


def test_the_weightiest_task_is_drawn(tmp_path: Path) -> None:
    training, _ = write_bands(tmp_path)
    spec = dataclasses.replace(build_spec(CONFIG, training.labels), tasks=("semantic", "instance"))
    model = tiny_model(seed=0).eval()
    alone = dataclasses.replace(spec, tasks=("instance",))
    assert np.array_equal(SamplePictures(training, spec)(model), SamplePictures(training, alone)(model))


def test_few_images_are_all_shown(tmp_path: Path) -> None:
    _, validation = write_bands(tmp_path)
    spec = build_spec(CONFIG, validation.labels)
    sheet = SamplePictures(validation, spec)(tiny_model(seed=0).eval())
    assert sheet is not None
    assert len(sheet) == 2 * WIDTH * 48 // 64
