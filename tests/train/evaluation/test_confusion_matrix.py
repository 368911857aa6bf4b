"""mIoU and pixel accuracy against a count done pixel by pixel in plain Python, and properties that must hold."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mask2edge.runtime.command_line import InputError
from mask2edge.train.evaluation.confusion_matrix import ConfusionMatrix

CLASSES = 4
IGNORE = 255
SHAPE = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


@st.composite
def label_maps(draw):
    shape = draw(SHAPE)
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORE])))
    prediction = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, CLASSES - 1)))
    return truth, prediction


def oracle(images):
    """Exact fractions, from sets of pixels: the definition, without a confusion matrix."""
    pixels = [
        (int(t), int(p))
        for truth, prediction in images
        for t, p in zip(truth.ravel(), prediction.ravel(), strict=True)
        if t != IGNORE
    ]
    ious = []
    for label in range(CLASSES):
        intersection = sum(t == label and p == label for t, p in pixels)
        union = sum(label in (t, p) for t, p in pixels)
        ious.append(Fraction(intersection, union) if union else None)
    present = [iou for iou in ious if iou is not None]
    return ious, sum(present, Fraction(0)) / len(present), Fraction(sum(t == p for t, p in pixels), len(pixels))


@settings(max_examples=60, deadline=None)
@given(st.lists(label_maps(), min_size=1, max_size=4))
def test_metrics_equal_exact_fractions(images):
    matrix = ConfusionMatrix(CLASSES)
    for truth, prediction in images:
        matrix.add(truth, prediction)
    if all((truth == IGNORE).all() for truth, _ in images):
        with pytest.raises(InputError, match="expected labelled pixels, got none"):
            matrix.metrics()
        return
    ious, mean, accuracy = oracle(images)
    assert matrix.metrics() == pytest.approx({"mIoU": float(mean), "pixel_accuracy": float(accuracy)}, abs=1e-12)
    for iou, expected in zip(matrix.class_iou(), ious, strict=True):
        assert math.isnan(iou) if expected is None else iou == pytest.approx(float(expected), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(label_maps(), min_size=2, max_size=4))
def test_order_of_images_does_not_matter(images):
    forward, backward = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    for truth, prediction in images:
        forward.add(truth, prediction)
    for truth, prediction in reversed(images):
        backward.add(truth, prediction)
    assert np.array_equal(forward.counts, backward.counts)


@settings(max_examples=25, deadline=None)
@given(label_maps(), st.integers(0, CLASSES - 1))
def test_what_is_predicted_on_ignored_pixels_does_not_matter(maps, other):
    truth, prediction = maps
    changed = np.where(truth == IGNORE, other, prediction)
    one, two = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    one.add(truth, prediction)
    two.add(truth, changed)
    assert np.array_equal(one.counts, two.counts)


def test_union_is_over_the_data_set_not_a_mean_of_images():
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 1]]))
    matrix.add(np.array([[0, 0, 0, 1]]), np.array([[1, 1, 1, 0]]))
    assert matrix.class_iou() == pytest.approx([3 / 7, 1 / 5])


def test_absent_class_is_left_out_and_falsely_predicted_class_is_not():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([[0, 0]]), np.array([[0, 1]]))
    per_class = matrix.per_class(["sky", "road", "car"])
    assert per_class["car"]["IoU"] is None
    assert per_class["road"] == {"IoU": 0.0, "pixel_share": 0.0}
    assert matrix.metrics()["mIoU"] == pytest.approx((0.5 + 0.0) / 2)


def test_counts_do_not_overflow_small_integer_types():
    matrix = ConfusionMatrix(40)
    truth = np.full((10, 10), 39, np.uint8)
    matrix.add(truth, truth.copy())
    assert matrix.counts[39, 39] == 100


BAD = [
    (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.int32), r"size \(2, 2\), got \(2, 3\)"),
    (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.int32), "annotation: expected classes 0 to 3 .* from 4 to 4"),
    (np.zeros((2, 2), np.uint8), np.full((2, 2), -1, np.int32), "prediction: expected classes 0 to 3"),
]


@pytest.mark.parametrize(("truth", "prediction", "message"), BAD)
def test_bad_label_maps(truth, prediction, message):
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(InputError, match=message):
        matrix.add(truth, prediction)
    assert matrix.counts.sum() == 0
