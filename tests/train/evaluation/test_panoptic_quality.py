"""PQ of images small enough to count by hand, its properties, and what cannot be measured."""

import numpy as np
import pytest
from evaluation_testing import annotation_of, labels_of, panoptic_result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.panoptic_quality import PanopticQuality

LABELS = labels_of("ab", "c")
A, B, C = range(3)


def quality_of(*images):
    """Each image: (truth, its classes, its crowds, prediction, its classes), all one row of pixels."""
    quality = PanopticQuality(LABELS)
    for truth, classes, crowd, found, found_classes in images:
        quality.add(
            annotation_of(np.array([truth]), classes, crowd), panoptic_result(np.array([found]), found_classes, LABELS)
        )
    return quality


def counts(quality, label):
    sums = quality.true_positives, quality.false_positives, quality.false_negatives
    return tuple(int(column[label]) for column in sums)


def test_one_match_one_invention_one_miss():
    # a: 3 of 4 pixels found and one more claimed: IoU 3/5; c is missed; b is invented
    quality = quality_of(([1, 1, 1, 1, 2, 2, 2], [A, C], [], [1, 1, 1, 2, 1, 2, 2], [A, B]))
    assert (counts(quality, A), counts(quality, B), counts(quality, C)) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    expected = {
        "PQ": 0.2, "SQ": 0.2, "RQ": 1 / 3, "PQ_things": 0.3, "SQ_things": 0.3, "RQ_things": 0.5,
        "PQ_stuff": 0, "SQ_stuff": 0, "RQ_stuff": 0,
    }  # fmt: skip
    assert quality.metrics() == pytest.approx(expected)
    assert quality.per_class()["a"] == {
        "PQ": pytest.approx(0.6),
        "SQ": pytest.approx(0.6),
        "RQ": 1.0,
        "TP": 1,
        "FP": 0,
        "FN": 0,
    }


def test_half_is_no_match():
    quality = quality_of(([1, 1, 0, 0], [A], [], [1, 0, 0, 0], [A]))
    assert counts(quality, A) == (0, 1, 1)


@pytest.mark.parametrize(("void", "wrong"), [(2, 1), (3, 0)])
def test_a_prediction_is_forgiven_where_more_than_half_of_it_is_void(void, wrong):
    truth = [1] * 4 + [0] * void
    found = [0] * 2 + [1] * 2 + [1] * void  # two pixels of another class, the rest void
    quality = quality_of((truth, [A], [], found, [B]))
    assert counts(quality, B) == (0, wrong, 0)


def test_void_is_no_part_of_a_union():
    quality = quality_of(([1, 1, 1, 0, 0, 0], [A], [], [1, 1, 1, 1, 1, 1], [A]))
    assert quality.metrics()["PQ"] == 1


@pytest.mark.parametrize(("label", "wrong"), [(A, 0), (B, 1)])
def test_a_crowd_forgives_predictions_of_its_class_and_asks_for_none(label, wrong):
    quality = quality_of(([1, 1, 1, 1, 2], [A, C], [1], [1, 1, 2, 2, 3], [label, label, C]))
    assert counts(quality, label) == (0, 2 * wrong, 0)
    assert counts(quality, A)[2] == 0
    assert counts(quality, C) == (1, 0, 0)


def test_sums_are_over_the_data_set_not_a_mean_of_images():
    right = ([1, 1], [A], [], [1, 1], [A])
    missed = ([1, 1], [A], [], [0, 0], [])
    assert quality_of(right, right, missed).metrics()["PQ"] == pytest.approx(2 / 2.5)


def test_empty_images_and_absent_classes_count_nowhere():
    nothing = ([0, 0], [], [], [0, 0], [])
    quality = quality_of(nothing, ([1, 1], [C], [], [1, 1], [C]), nothing)
    assert quality.metrics() == {"PQ": 1, "SQ": 1, "RQ": 1, "PQ_stuff": 1, "SQ_stuff": 1, "RQ_stuff": 1}
    assert quality.per_class()["a"] == {"PQ": None, "SQ": None, "RQ": None, "TP": 0, "FP": 0, "FN": 0}


MAPS = hnp.arrays(np.int32, (4, 6), elements=st.integers(0, 4))
CLASSES = st.lists(st.integers(0, 2), min_size=4, max_size=4)


@settings(max_examples=40, deadline=None)
@given(MAPS, CLASSES)
def test_the_truth_scores_one(segment_map, classes):
    present = [number for number in range(1, 5) if (segment_map == number).any()]
    places = np.zeros(5, np.int32)
    places[present] = np.arange(1, len(present) + 1)
    own = [classes[number - 1] for number in present]
    quality = PanopticQuality(LABELS)
    quality.add(annotation_of(places[segment_map], own), panoptic_result(places[segment_map], own, LABELS))
    if present:
        assert set(quality.metrics().values()) == {1.0}


@settings(max_examples=60, deadline=None)
@given(MAPS, CLASSES, MAPS, CLASSES, st.permutations([1, 2, 3, 4]))
def test_segments_may_come_in_any_order_and_pq_is_sq_times_rq(truth, classes, found, found_classes, order):
    def of(truth_map, truth_classes):
        quality = PanopticQuality(LABELS)
        quality.add(annotation_of(truth_map, truth_classes), panoptic_result(found, found_classes, LABELS))
        return quality

    places = np.array([0, *order])
    reordered = of(places[truth], [classes[order.index(number)] for number in (1, 2, 3, 4)])
    plain = of(truth, classes)
    np.testing.assert_allclose(plain.class_quality(), reordered.class_quality())
    quality, segmentation, recognition = plain.class_quality().T
    np.testing.assert_allclose(quality, segmentation * recognition)
    counted = plain.true_positives + plain.false_negatives
    assert counted.tolist() == np.bincount(classes, minlength=3).tolist()  # without crowds every true segment counts


def test_planes_that_do_not_overlap_are_one():
    planes = np.array([[[1, 1, 0, 0]], [[0, 0, 2, 2]]], np.int32)
    quality = PanopticQuality(LABELS)
    quality.add(
        Annotation(planes, np.array([A, B]), np.zeros(2, bool)), panoptic_result([[1, 1, 2, 2]], [A, B], LABELS)
    )
    assert quality.metrics()["PQ"] == 1


OVERLAPPING = Annotation(np.array([[[1, 1]], [[0, 2]]], np.int32), np.array([A, B]), np.zeros(2, bool))
BAD = [
    (annotation_of(np.ones((1, 3)), [A]), r"size \(1, 3\), got \(1, 2\)"),
    (OVERLAPPING, "expected segments that do not overlap"),
]


@pytest.mark.parametrize(("annotation", "message"), BAD)
def test_bad_annotations(annotation, message):
    quality = PanopticQuality(LABELS)
    with pytest.raises(InputError, match=message):
        quality.add(annotation, panoptic_result([[1, 1]], [A], LABELS))


def test_nothing_to_count_and_unknown_things_are_errors():
    with pytest.raises(InputError, match="PQ: expected segments, got none"):
        quality_of(([0, 0], [], [], [0, 0], [])).metrics()
    with pytest.raises(InputError, match="expected labels that say which classes are things"):
        PanopticQuality([Label(0, "a", None, (0, 0, 0), 0)])
