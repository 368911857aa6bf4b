"""Validation against the runtime's own pre- and post-processing, and its scores against a count by hand."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mask2edge.runtime.postprocess import semantic
from mask2edge.runtime.preprocess import preprocess
from mask2edge.runtime.spec import ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.labels import labels_from_names
from mask2edge.train.validation import SemanticScores, prepare, segment_semantic, validate

RULES = Preprocessing((120.0, 110.0, 100.0), (60.0, 50.0, 40.0), shortest_edge=64, longest_edge=128)
SPEC = ModelSpec("tiny", labels_from_names(["a", "b", "c"]), 7, RULES, Postprocessing(), ("semantic",))


class RandomNetwork(nn.Module):
    """Seven queries whose masks are smooth functions of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(7, 3, 4, 4, generator=generator) / 4)  # [Q, 3, 4, 4]
        self.class_logits = torch.randn(1, 7, 4, generator=generator)  # [1, Q, K+1]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        masks = torch.nn.functional.conv2d(pixels, self.weight, stride=4)  # [N, Q, H/4, W/4]
        return {"class_logits": self.class_logits, "mask_logits": masks}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random RGB image: uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (90, 70), (37, 200), (300, 41), (1, 1), (1, 400)])
def test_pixels_are_those_of_the_runtime(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels, content = prepare(image, RULES)
    theirs = preprocess(np.ascontiguousarray(image[:, :, ::-1]), RULES)
    assert content == theirs.content
    assert tuple(pixels.shape) == theirs.pixels.shape[1:]
    inside = (slice(None), slice(content[0]), slice(content[1]))
    np.testing.assert_allclose(pixels[inside], theirs.pixels[0][inside], atol=2e-6)
    outside = pixels.clone()
    outside[inside] = 0
    assert not outside.any()


@pytest.mark.parametrize("order", ["padded", "image"])
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_classes_are_those_of_the_runtime(order: str, size: tuple[int, int]) -> None:
    spec = dataclasses.replace(SPEC, postprocessing=Postprocessing(semantic_order=order))
    model, image = RandomNetwork(), picture(*size)
    ours = segment_semantic(model, image, spec)
    prepared = preprocess(np.ascontiguousarray(image[:, :, ::-1]), RULES)
    with torch.no_grad():
        outputs = {name: value[0].numpy() for name, value in model(torch.from_numpy(prepared.pixels)).items()}
    theirs = semantic(
        outputs["class_logits"], outputs["mask_logits"], prepared.padded, prepared.content, prepared.image, spec
    ).label_map
    assert len(np.unique(ours)) > 1
    assert (ours != theirs).mean() < 1e-3  # ties of rounding


def test_the_two_orders_differ() -> None:
    model, image = RandomNetwork(), picture(50, 70)
    by_order = [
        segment_semantic(model, image, dataclasses.replace(SPEC, postprocessing=Postprocessing(semantic_order=order)))
        for order in ("padded", "image")
    ]
    assert (by_order[0] != by_order[1]).any()


def test_scores_by_hand() -> None:
    scores = SemanticScores(np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(scores.iou, [3 / 6, 4 / 7, np.nan, np.nan])
    assert scores.mean_iou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert SemanticScores(np.zeros((2, 2), int)).mean_iou == 0


def test_ignored_pixels_do_not_count_and_a_stop_is_heeded(tmp_path: Path) -> None:
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    model, expected = RandomNetwork(), np.zeros((3, 3), int)
    for index in range(3):
        image = picture(40, 60, seed=index)
        predicted = segment_semantic(model, image, SPEC)
        truth = np.random.default_rng(index).integers(0, 4, (40, 60))  # 3: ignore
        for true, found in zip(truth.ravel(), predicted.ravel(), strict=True):
            if true < 3:
                expected[true, found] += 1
        cv2.imwrite(str(tmp_path / f"val/{index}.png"), image[:, :, ::-1])
        cv2.imwrite(str(tmp_path / f"valannot/{index}.png"), truth.astype(np.uint8))
    data = SemanticFolder(tmp_path, "val")
    scores = validate(model, data, SPEC)
    assert scores is not None
    np.testing.assert_array_equal(scores.confusion, expected)
    assert validate(model, data, SPEC, stop=lambda: True) is None
