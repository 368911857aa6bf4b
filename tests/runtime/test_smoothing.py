"""A vote over three frames: against a count of votes pixel by pixel, and what becomes of flicker and real changes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.smoothing import Smoother
from mask2edge.runtime.spec import Label
from mask2edge.runtime.tracking import Tracker

LABELS = tuple(Label(index, f"class {index}", index == 1, (9 * index, 0, 0), index) for index in range(4))
CAR = 1


def described(label_map: np.ndarray, task: str = "semantic", score: float = 0.9, labels=None) -> Segmentation:
    """A result with a segment for each id; semantic ids are classes, of panoptic ids `labels` says the class."""
    label_map = np.asarray(label_map, np.int32)
    segments = []
    for number in np.unique(label_map).tolist():
        if task == "panoptic" and number == 0:
            continue
        rows, columns = np.nonzero(label_map == number)
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        label = LABELS[labels[number] if labels else number]
        segments.append(Segment(number, label.id, label.name, label.is_thing, score, len(rows), box, label_map))
    return Segmentation(label_map, tuple(segments), task, LABELS)


def voted(new: int, old: int, older: int) -> int:
    (most, votes), *_ = Counter([new, old, older]).most_common()
    return most if votes > 1 else new


MAPS = st.lists(arrays.arrays(np.int32, (4, 5), elements=st.integers(0, 3)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(MAPS)
def test_each_pixel_has_the_segment_that_two_of_three_frames_agree_on(maps):
    smoother = Smoother()
    for index, given_map in enumerate(maps):
        before = given_map.copy()
        result = smoother.update(described(given_map))
        expected = given_map
        if index >= 2:
            expected = np.vectorize(voted, otypes=[np.int32])(given_map, maps[index - 1], maps[index - 2])
        np.testing.assert_array_equal(result.label_map, expected)
        np.testing.assert_array_equal(given_map, before)  # nobody's own map is written into
        of_the_map = {segment.id: segment for segment in described(expected).segments}
        assert {segment.id for segment in result.segments} == set(of_the_map)
        for segment in result.segments:
            same = of_the_map[segment.id]
            assert (segment.area, segment.box, segment.label) == (same.area, same.box, same.label)
            np.testing.assert_array_equal(segment.mask, expected == segment.id)


def test_what_is_there_or_away_for_one_frame_alone_is_smoothed_and_a_change_is_seen_one_frame_later():
    road, car = np.zeros((6, 8), int), np.zeros((6, 8), int)
    car[2:4, 2:6] = CAR
    seen = []
    smoother = Smoother()
    for shown in (road, road, car, road, road, car, car, road, car):
        result = smoother.update(described(shown))
        seen.append(CAR in {segment.label_id for segment in result.segments})
    #               flares up:  not           comes: one later      fails: not
    assert seen == [False, False, False, False, False, False, True, True, True]


def test_a_segment_that_the_newest_frame_lacks_keeps_its_id_and_score_of_then():
    tracker, smoother = Tracker(smoothing=0), Smoother()
    whole, other = np.zeros((6, 8), int), np.zeros((6, 8), int)
    whole[:, :4], whole[:, 4:] = 1, 2
    other[:, 4:] = 1  # the network numbers what it found: the second segment is its first now
    labels = {1: 1, 2: 2}
    for score in (0.7, 0.8):
        smoother.update(tracker.update(described(whole, "panoptic", score, labels)))
    result = smoother.update(tracker.update(described(other, "panoptic", 0.9, {1: 2})))
    np.testing.assert_array_equal(result.label_map, whole)
    assert {segment.id: segment.score for segment in result.segments} == {1: 0.8, 2: 0.9}


def test_another_size_begins_anew_and_instances_are_refused():
    smoother = Smoother()
    for _ in range(2):
        smoother.update(described(np.zeros((4, 4))))
    for _ in range(2):
        assert (smoother.update(described(np.ones((5, 4)))).label_map == 1).all()
    assert (smoother.update(described(np.zeros((5, 4)))).label_map == 1).all()
    with pytest.raises(InputError, match="expected panoptic or semantic results, got instances"):
        smoother.update(Segmentation(np.zeros((2, 2), np.int32), (), "instance", LABELS))
