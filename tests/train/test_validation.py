"""Validation: a network with known answers, the runtime's own results counted by hand, and what goes wrong."""

import dataclasses
import re

import cv2
import numpy as np
import pytest
import torch
from evaluation_testing import Samples, annotation_of
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.postprocess import semantic
from mask2edge.runtime.preprocess import preprocess
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.validation import Scores, validate

pytest.importorskip("hotcoco", reason="AP is computed by hotcoco: pip install 'mask2edge[accuracy]'")

LABELS = tuple(Label(i, name, i < 2, (i, i, i), i) for i, name in enumerate(("red", "green", "blue")))
RULES = Preprocessing((0, 0, 0), (255, 255, 255), shortest_edge=64, longest_edge=128)
SPEC = ModelSpec("colors", LABELS, 3, RULES, Postprocessing(), ("semantic", "panoptic", "instance"))


class ColorNetwork(nn.Module):
    """Query q is surely class q, and its mask is where channel q is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.class_logits = nn.Parameter(torch.eye(3, 4)[None] * 20 - 10)  # [1, Q, K+1]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        masks = torch.nn.functional.avg_pool2d(pixels, 4) * 20 - 10  # [N, 3, H/4, W/4]
        return {"class_logits": self.class_logits, "mask_logits": masks}


class RandomNetwork(nn.Module):
    """Seven queries whose masks are smooth functions of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(7, 3, 4, 4, generator=generator) * 2)  # [Q, 3, 4, 4]
        self.class_logits = torch.randn(1, 7, 4, generator=generator)  # [1, Q, K+1]

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        masks = torch.nn.functional.conv2d(pixels - 0.5, self.weight, stride=4)  # [N, Q, H/4, W/4]
        return {"class_logits": self.class_logits, "mask_logits": masks}


def painted(segment_map: np.ndarray, classes: list[int]) -> np.ndarray:
    """RGB uint8 [H, W, 3]: segments in the pure colour of their class, the rest black."""
    colors = np.zeros((len(classes) + 1, 3), np.uint8)
    colors[np.arange(1, len(classes) + 1), classes] = 255
    return colors[segment_map]


def stripes() -> np.ndarray:
    """Segments 1, 2 and 3 in columns of 32 pixels on 64 rows, and void in the lowest row of 16."""
    columns = np.repeat([1, 2, 3], 32)[None].repeat(64, 0)  # [64, 96]
    columns[48:] = 0
    return columns


def validated(labels=LABELS, spec=SPEC, **options) -> Scores:
    segment_map = stripes()
    samples = [
        (painted(segment_map, classes), annotation_of(segment_map, classes)) for classes in ([0, 1, 2], [2, 0, 1])
    ]
    scores = validate(ColorNetwork().eval(), Samples(labels, samples), spec, **options)
    assert scores is not None
    return scores


def test_a_network_that_is_right_scores_one_in_every_task():
    scores = validated()
    assert (scores.name, scores.skipped) == ("PQ", 0)
    assert scores.score == scores.metrics["PQ"]
    for name in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "AP75", "mIoU", "pixel_accuracy"):
        assert scores.metrics[name] == pytest.approx(1, abs=2e-3), name  # some pixels where three segments meet
    assert list(scores.per_class) == ["panoptic", "instance", "semantic"]
    assert list(scores.per_class["instance"]) == ["red", "green"]


@pytest.mark.parametrize(
    ("tasks", "name"), [(("semantic",), "mIoU"), (("semantic", "instance"), "AP"), (("instance", "panoptic"), "PQ")]
)
def test_the_score_is_of_the_tasks_asked_for(tasks, name):
    scores = validated(tasks=tasks)
    assert scores.name == name
    assert set(scores.per_class) == set(tasks)
    assert ("mIoU" in scores.metrics, "AP" in scores.metrics) == ("semantic" in tasks, "instance" in tasks)


def test_the_specs_own_limit_of_detections_counts():
    """Two things in each image, and one detection: the surer, which is found alone."""
    spec = dataclasses.replace(SPEC, postprocessing=Postprocessing(instance_top_k=1))
    assert validated(spec=spec, tasks=("instance",)).metrics["AR"] < 1


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random RGB image: uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("order", ["padded", "image"])
def test_classes_are_those_of_the_runtime_counted_pixel_by_pixel(order):
    spec = dataclasses.replace(SPEC, postprocessing=Postprocessing(semantic_order=order), tasks=("semantic",))
    model, samples, counts = RandomNetwork().eval(), [], np.zeros((3, 3))
    for seed, size in enumerate(((64, 96), (50, 70), (41, 300), (33, 20))):
        image, truth = picture(*size, seed), np.random.default_rng(seed).integers(0, 4, size)  # 0: void
        samples.append((image, annotation_of(truth, [0, 1, 2])))
        prepared = preprocess(np.ascontiguousarray(image[:, :, ::-1]), RULES)
        with torch.no_grad():
            outputs = {name: value[0].numpy() for name, value in model(torch.from_numpy(prepared.pixels)).items()}
        found = semantic(
            outputs["class_logits"], outputs["mask_logits"], prepared.padded, prepared.content, prepared.image, spec
        ).label_map
        assert len(np.unique(found)) > 1
        for true, predicted in zip(truth.ravel(), found.ravel(), strict=True):
            if true:
                counts[true - 1, predicted] += 1
    scores = validate(model, Samples(LABELS, samples), spec)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert scores is not None
    assert scores.metrics["mIoU"] == pytest.approx(iou.mean(), abs=1e-3)  # ties of rounding
    assert scores.metrics["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum(), abs=1e-3)


class Damaged(Samples):
    """Image 0 cannot be read."""

    def __getitem__(self, index: int):
        if index == 0:
            raise InputError("0.png: expected an image, got 3 bytes")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_read_is_left_out_and_said(capsys):
    segment_map = stripes()
    sample = (painted(segment_map, [0, 1, 2]), annotation_of(segment_map, [0, 1, 2]))
    scores = validate(ColorNetwork(), Damaged(LABELS, [sample] * 3), SPEC)
    assert scores is not None
    assert scores.skipped == 1
    assert scores.score == pytest.approx(1, abs=2e-3)
    assert "validation leaves out an image: 0.png: expected an image" in capsys.readouterr().err


def test_a_stop_is_heeded_and_gives_no_scores():
    segment_map, asked = stripes(), []
    sample = (painted(segment_map, [0, 1, 2]), annotation_of(segment_map, [0, 1, 2]))
    data = Samples(LABELS, [sample] * 3)
    assert validate(ColorNetwork(), data, SPEC, stop=lambda: len(asked) == 2 or asked.append(1)) is None
    assert len(asked) == 2


EMPTY = annotation_of(np.zeros((64, 96)), [])
BLACK = np.zeros((64, 96, 3), np.uint8)
UNKNOWN = tuple(dataclasses.replace(label, is_thing=None) for label in LABELS)
BAD = [
    (Samples(LABELS[:2], [(BLACK, EMPTY)]), ("semantic",), "the model has 3 classes, the data 2"),
    (Samples(UNKNOWN, [(BLACK, EMPTY)]), ("instance",), "expected data that tell instances apart"),
    (Samples(LABELS, [(BLACK, EMPTY)]), ("instance",), "AP: expected instances, got none"),
    (Samples(LABELS, [(BLACK, EMPTY)]), ("panoptic",), "PQ: expected segments, got none"),
    (Samples(LABELS, [(BLACK, EMPTY)]), ("semantic",), "expected labelled pixels, got none"),
    (Damaged(LABELS, [(BLACK, EMPTY)]), ("semantic",), "expected images to validate on, got none"),
]


@pytest.mark.parametrize(("data", "tasks", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_data_that_do_not_fit(data, tasks, message):
    with pytest.raises(InputError, match=re.escape(message)):
        validate(ColorNetwork(), data, SPEC, tasks=tasks)


def test_the_root_of_the_data_is_named():
    data = Samples(LABELS[:2], [(BLACK, EMPTY)])
    with pytest.raises(InputError, match=r"^made-up: expected labels in the model's classes \(red, green, blue\)"):
        validate(ColorNetwork(), data, SPEC)
