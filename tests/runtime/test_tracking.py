"""A segment keeps its id while it moves, is away for a moment, or another appears; ids stay small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime import rle, tracking
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.runtime.tracking import Tracker

LABELS = (Label(0, "car", True, (10, 20, 200), 3), Label(1, "road", False, (128, 64, 128), 149))
Box = tuple[int, int, int, int]


def panoptic(*parts: tuple[int, Box], score: float = 0.9, size=(40, 60)) -> Segmentation:
    """(label, box) in the order of their ids, 1, 2, …; a later one covers."""
    label_map = np.zeros(size, np.int32)
    for number, (_, (x0, y0, x1, y1)) in enumerate(parts, start=1):
        label_map[y0:y1, x0:x1] = number
    segments = tuple(
        Segment(number, label, LABELS[label].name, LABELS[label].is_thing, score, 1, box, label_map)
        for number, (label, box) in enumerate(parts, start=1)
    )
    return Segmentation(label_map, segments, "panoptic", LABELS)


def instances(*parts: tuple[float, Box]) -> Segmentation:
    """(score, box) in rising score; they may overlap."""
    label_map = np.zeros((40, 60), np.int32)
    segments = []
    for number, (score, (x0, y0, x1, y1)) in enumerate(parts, start=1):
        mask = np.zeros(label_map.shape, bool)
        mask[y0:y1, x0:x1] = True
        label_map[mask] = number
        segments.append(
            Segment(number, 0, "car", True, score, int(mask.sum()), (x0, y0, x1, y1), label_map, rle.encode(mask))
        )
    return Segmentation(label_map, tuple(segments), "instance", LABELS)


def ids(result: Segmentation) -> list[int]:
    return [segment.id for segment in result.segments]


def test_moving_segments_keep_their_ids_whatever_the_network_numbers_them():
    tracker = Tracker()
    for step in range(10):
        left, right = (0, (2 * step, 0, 2 * step + 20, 15)), (0, (40 - 2 * step, 20, 60 - 2 * step, 35))
        turned = step % 2
        result = tracker.update(panoptic(*((right, left) if turned else (left, right))))
        assert ids(result) == ([2, 1] if turned else [1, 2])
        for segment in result.segments:
            x0, y0, x1, y1 = segment.box
            assert (result.label_map[y0:y1, x0:x1] == segment.id).all()
            assert segment.mask.sum() == (x1 - x0) * (y1 - y0)
        assert set(np.unique(result.label_map)) == {0, 1, 2}


def test_another_label_is_another_segment():
    tracker, box = Tracker(), (0, 0, 20, 20)
    assert ids(tracker.update(panoptic((0, box)))) == [1]
    assert ids(tracker.update(panoptic((1, box)))) == [2]


def test_a_segment_may_be_away_for_patience_frames():
    box = (0, 0, 20, 20)
    for away, expected in ((3, 1), (4, 2)):
        tracker = Tracker(patience=3)
        tracker.update(panoptic((0, box)))
        for _ in range(away):
            assert ids(tracker.update(panoptic())) == []
        assert ids(tracker.update(panoptic((0, box)))) == [expected]


def test_of_two_the_greater_overlap_wins_and_the_other_is_new():
    tracker = Tracker()
    tracker.update(panoptic((0, (0, 0, 30, 20))))
    assert ids(tracker.update(panoptic((0, (0, 0, 12, 20)), (0, (12, 0, 30, 20))))) == [2, 1]


def test_instances_overlap_and_the_unsure_are_left_out():
    tracker = Tracker()
    first = tracker.update(instances((0.2, (0, 0, 60, 40)), (0.8, (0, 0, 30, 30)), (0.9, (5, 5, 25, 25))))
    assert ids(first) == [1, 2]
    assert first.label_map[35, 50] == 0  # the unsure one alone was there
    second = tracker.update(instances((0.8, (6, 5, 26, 25)), (0.9, (1, 0, 31, 30))))
    assert ids(second) == [2, 1]
    assert second.segments[0].mask.sum() == 400


def test_scores_are_smoothed():
    tracker, box = Tracker(smoothing=0.75), (0, 0, 20, 20)
    tracker.update(panoptic((0, box), score=0.8))
    assert tracker.update(panoptic((0, box), score=0.4)).segments[0].score == pytest.approx(0.75 * 0.8 + 0.25 * 0.4)


def test_another_size_begins_anew_and_semantic_is_refused():
    tracker, box = Tracker(), (0, 0, 20, 20)
    tracker.update(panoptic((0, box)))
    assert ids(tracker.update(panoptic((0, box), size=(50, 60)))) == [2]
    with pytest.raises(InputError, match="expected panoptic or instance results, got semantic"):
        tracker.update(Segmentation(np.zeros((2, 2), np.int32), (), "semantic", LABELS))


def test_ids_begin_anew_and_are_never_two_segments_at_a_time(monkeypatch):
    monkeypatch.setattr(tracking, "LAST_ID", 3)
    tracker, stays = Tracker(patience=0), (0, (0, 0, 20, 20))
    tracker.update(panoptic(stays))
    found = [ids(tracker.update(panoptic(stays, (0, (30 + i % 2 * 15, 0, 40 + i % 2 * 15, 20)))))[1] for i in range(6)]
    assert found == [2, 3, 2, 3, 2, 3]


BOXES = st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(st.floats(0.5, 1), BOXES), max_size=5), max_size=6))
def test_any_sequence_renames_and_changes_no_mask(frames):
    tracker = Tracker()
    for parts in frames:
        before = instances(*sorted(parts))
        after = tracker.update(before)
        assert len(set(ids(after))) == len(before.segments)
        new_of = {0: 0, **{old.id: new.id for old, new in zip(before.segments, after.segments, strict=True)}}
        np.testing.assert_array_equal(after.label_map, np.vectorize(new_of.get, otypes=[np.int32])(before.label_map))
        for old, new in zip(before.segments, after.segments, strict=True):
            np.testing.assert_array_equal(old.mask, new.mask)
