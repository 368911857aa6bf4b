"""AP of cases counted by hand, the run lengths that go into it, and what cannot be measured."""

import sys

import numpy as np
import pytest
from evaluation_testing import annotation_of, instance_result, labels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mask2edge.runtime import rle
from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.average_precision import AveragePrecision
from mask2edge.train.evaluation.coco_rows import run_lengths

pytest.importorskip("hotcoco", reason="AP is computed by hotcoco: pip install 'mask2edge[accuracy]'")

LABELS = labels_of("ab", "c")
SIZE = (20, 30)
LEFT, RIGHT = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
LEFT[2:12, 2:12], RIGHT[2:12, 18:28] = True, True
MIDDLE = np.zeros(SIZE, bool)
MIDDLE[14:18, 14:16] = True
BOTH = np.where(LEFT, 1, np.where(RIGHT, 2, 0))


def precision_of(*images, detections=100):
    """Each image: (annotation, masks, classes, scores)."""
    precision = AveragePrecision(LABELS[:2], detections)
    for annotation, masks, classes, scores in images:
        precision.add(annotation, instance_result(masks, classes, scores, LABELS, SIZE))
    return precision


def test_two_of_two_and_one_of_two():
    annotation = annotation_of(BOTH, [0, 0])
    assert precision_of((annotation, [LEFT, RIGHT], [0, 0], [0.9, 0.8])).metrics()["AP"] == pytest.approx(1)
    # precision is 1 up to a recall of one half, which 51 of the 101 points of the curve reach
    half = precision_of((annotation, [LEFT], [0], [0.9]))
    assert half.metrics() == pytest.approx({"AP": 51 / 101, "AP50": 51 / 101, "AP75": 51 / 101, "AP_small": 51 / 101,
                                            "AR": 0.5})  # fmt: skip
    assert half.per_class() == {"a": {"AP": pytest.approx(51 / 101), "AP50": pytest.approx(51 / 101)},
                                "b": {"AP": None, "AP50": None}}  # fmt: skip


def test_an_overlap_counts_up_to_its_own_threshold():
    smaller = LEFT.copy()
    smaller[:, 8:] = False  # 60 of 100 pixels: right at 0.50, 0.55 and 0.60
    metrics = precision_of((annotation_of(LEFT, [0]), [smaller], [0], [0.9])).metrics()
    assert (metrics["AP"], metrics["AP50"], metrics["AP75"]) == pytest.approx((0.3, 1, 0))


def test_a_surer_mistake_costs_precision_and_a_less_sure_one_nothing():
    annotation = annotation_of(LEFT, [0])
    before = precision_of((annotation, [MIDDLE, LEFT], [0, 0], [0.9, 0.8])).metrics()["AP"]
    after = precision_of((annotation, [MIDDLE, LEFT], [0, 0], [0.7, 0.8])).metrics()["AP"]
    assert (before, after) == pytest.approx((0.5, 1))


def test_detections_in_a_crowd_count_neither_way():
    annotation = annotation_of(BOTH, [0, 0], crowd=[2])
    quarter = RIGHT.copy()
    quarter[7:] = False
    found = [LEFT, RIGHT, quarter], [0, 0, 0], [0.5, 0.9, 0.8]
    assert precision_of((annotation, *found)).metrics()["AP"] == pytest.approx(1)
    assert precision_of((annotation_of(LEFT, [0]), *found)).metrics()["AP"] < 0.5


def test_the_limit_of_detections_is_of_each_image():
    annotation = annotation_of(BOTH, [0, 0])
    found = annotation, [LEFT, RIGHT], [0, 0], [0.9, 0.8]
    assert precision_of(found, found, detections=1).metrics()["AR"] == pytest.approx(0.5)


def test_other_classes_and_empty_images_count_nowhere():
    empty = annotation_of(np.zeros(SIZE), [])
    stuff = annotation_of(BOTH, [0, 2])
    precision = precision_of((stuff, [LEFT, RIGHT], [0, 2], [0.9, 0.95]), (empty, [], [], []))
    assert precision.metrics()["AP"] == pytest.approx(1)
    false_alarm = precision_of((stuff, [LEFT], [0], [0.5]), (empty, [LEFT], [0], [0.9]))
    assert false_alarm.metrics()["AP"] == pytest.approx(0.5)


PLANES = st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int32, st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 4))
)
def test_run_lengths_are_those_of_each_mask_alone(planes):
    """Also of segments without a pixel, and of one that lies in two planes."""
    if len(planes) == 2:
        planes[1][planes[0] > 0] = 0
    annotation = Annotation(planes, np.zeros(4, np.int64), np.zeros(4, bool))
    for segment, counts in enumerate(run_lengths(annotation)):
        mask = annotation.mask(segment)
        np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)
        if len(planes) == 1:
            np.testing.assert_array_equal(counts, rle.encode(mask))


def test_what_cannot_be_measured(monkeypatch):
    empty = annotation_of(np.zeros(SIZE), [])
    with pytest.raises(InputError, match="AP: expected instances, got none"):
        precision_of((empty, [], [], [])).metrics()
    with pytest.raises(InputError, match=r"size \(2, 2\), got \(20, 30\)"):
        precision_of((annotation_of(np.zeros((2, 2)), []), [], [], []))
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(InputError, match=r"pip install 'mask2edge\[accuracy\]'"):
        AveragePrecision(LABELS)
