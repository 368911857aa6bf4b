"""A segment keeps its id from frame to frame: each is matched with the last frames' segment of the same label that it
overlaps most.

    tracker = Tracker()
    for frame in stream(segmenter, video, "panoptic"):
        result = tracker.update(frame.result)

Pairs are taken greedily by falling IoU. Above one half the choice is the best one for panoptic segments, which do not
overlap: at most one can have such an IoU with another. NumPy only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation

LAST_ID = 65_535  # then the smallest free ones again: ids stay small however long a stream runs
Box = tuple[int, int, int, int]


@dataclass
class _Track:
    id: int
    label_id: int
    score: float
    box: Box  # (x0, y0, x1, y1)
    mask: np.ndarray  # bool [y1 - y0, x1 - x0]
    unseen: int = 0  # frames in a row


class Tracker:
    """Panoptic and instance results of one video, in order."""

    def __init__(
        self, least_iou: float = 0.3, patience: int = 5, smoothing: float = 0.5, least_score: float = 0.5
    ) -> None:
        """`patience`: frames that a segment may be away and come back as itself. `smoothing`: the share of a track's
        score that stays when the next arrives, 0 for none. `least_score`: instances below it are left out, since the
        model always gives its best hundred, most of them chance.
        """
        self._least_iou = least_iou
        self._patience = patience
        self._smoothing = smoothing
        self._least_score = least_score
        self._tracks: list[_Track] = []
        self._size: tuple[int, int] | None = None
        self._last_id = 0

    def update(self, result: Segmentation) -> Segmentation:
        """The result with its tracks' ids and smoothed scores; a frame of another size begins anew.

        Raises InputError for semantic results: their ids are classes.
        """
        if result.task == "semantic":
            raise InputError("tracking: expected panoptic or instance results, got semantic: its ids are classes")
        if result.size != self._size:
            self._tracks, self._size = [], result.size
        segments = [s for s in result.segments if result.task != "instance" or s.score >= self._least_score]
        seen = [_Track(0, s.label_id, s.score, s.box, _crop(result, s)) for s in segments]
        for new, old in self._match(seen):
            new.id = old.id
            new.score = self._smoothing * old.score + (1 - self._smoothing) * new.score
        found = {track.id for track in seen}
        away = [track for track in self._tracks if track.id not in found and track.unseen < self._patience]
        for track in away:
            track.unseen += 1
        taken = found | {track.id for track in away}
        for track in seen:
            if not track.id:
                track.id = self._new_id(taken)
                taken.add(track.id)
        self._tracks = seen + away
        return _renamed(result, segments, seen)

    def _match(self, seen: list[_Track]) -> list[tuple[_Track, _Track]]:
        pairs = []
        for number, new in enumerate(seen):
            for order, old in enumerate(self._tracks):
                overlap = _iou(new, old) if new.label_id == old.label_id else 0.0
                if overlap >= self._least_iou:
                    pairs.append((-overlap, old.unseen, number, order))
        matched = []
        taken_new: set[int] = set()
        taken_old: set[int] = set()
        for _, _, number, order in sorted(pairs):
            if number not in taken_new and order not in taken_old:
                taken_new.add(number)
                taken_old.add(order)
                matched.append((seen[number], self._tracks[order]))
        return matched

    def _new_id(self, taken: set[int]) -> int:
        while True:
            self._last_id = self._last_id % LAST_ID + 1
            if self._last_id not in taken:
                return self._last_id


def _renamed(result: Segmentation, segments: list[Segment], tracks: list[_Track]) -> Segmentation:
    largest = max([int(result.label_map.max(initial=0)), *(segment.id for segment in segments)])
    new_ids = np.zeros(largest + 1, np.int32)  # id -> track's id
    for segment, track in zip(segments, tracks, strict=True):
        new_ids[segment.id] = track.id
    label_map = new_ids[result.label_map]  # [H, W]
    renamed = [
        dataclasses.replace(segment, id=track.id, score=track.score, _label_map=label_map)
        for segment, track in zip(segments, tracks, strict=True)
    ]
    return dataclasses.replace(result, label_map=label_map, segments=tuple(renamed))


def _crop(result: Segmentation, segment: Segment) -> np.ndarray:
    """The mask within its box, bool [h, w]."""
    x0, y0, x1, y1 = segment.box
    if result.task == "panoptic":
        return result.label_map[y0:y1, x0:x1] == segment.id
    return segment.mask[y0:y1, x0:x1].copy()  # an instance's includes what others cover


def _iou(one: _Track, other: _Track) -> float:
    x0, y0 = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    x1, y1 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    both = int(np.count_nonzero(_part(one, x0, y0, x1, y1) & _part(other, x0, y0, x1, y1)))
    union = int(np.count_nonzero(one.mask)) + int(np.count_nonzero(other.mask)) - both
    return both / union if union else 0.0


def _part(track: _Track, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    left, top = track.box[:2]
    return track.mask[y0 - top : y1 - top, x0 - left : x1 - left]
