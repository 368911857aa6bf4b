"""Panoptic and semantic video without flicker: a pixel changes its segment when two frames say so.

    smoother = Smoother()
    for frame in stream(segmenter, video, "semantic"):
        result = smoother.update(frame.result)      # panoptic: smoother.update(tracker.update(frame.result))

Of the last three frames each pixel takes the segment that two of them agree on, else the newest one's. What flares up
or fails for a single frame is gone, and what really changes is seen one frame later. NumPy and OpenCV only.
"""

from __future__ import annotations

import dataclasses
from collections import deque

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation


class Smoother:
    """The results of one video, in order; panoptic ones with ids that stay from frame to frame, as `Tracker` gives."""

    def __init__(self) -> None:
        self._before: deque[Segmentation] = deque(maxlen=2)

    def update(self, result: Segmentation) -> Segmentation:
        """The vote of this frame and the two before it; a frame of another size begins anew.

        A segment that only the frames before have keeps its score of then. Raises InputError for instances.
        """
        if result.task == "instance":
            raise InputError("smoothing: expected panoptic or semantic results, got instances: they overlap")
        if self._before and self._before[0].size != result.size:
            self._before.clear()
        voters = [result, *reversed(self._before)]  # the newest first
        self._before.append(result)
        if len(voters) < 3:
            return result
        new, old, older = (voter.label_map for voter in voters)  # [H, W]
        label_map = np.where(old == older, old, new)  # [H, W]
        known: dict[int, list[Segment]] = {}
        for voter in voters:
            for segment in voter.segments:
                known.setdefault(segment.id, []).append(segment)
        voted = (_of_map(label_map, same) for same in known.values())
        return dataclasses.replace(result, label_map=label_map, segments=tuple(filter(None, voted)))


def _of_map(label_map: np.ndarray, same: list[Segment]) -> Segment | None:
    """What the vote left of a segment, described as its newest frame has it; None where that is nothing."""
    x0, y0 = (min(segment.box[side] for segment in same) for side in (0, 1))
    x1, y1 = (max(segment.box[side] for segment in same) for side in (2, 3))
    mask = label_map[y0:y1, x0:x1] == same[0].id  # [h, w]; it is in no pixel that no frame had it in
    area = int(np.count_nonzero(mask))
    if not area:
        return None
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    box = (x0 + x, y0 + y, x0 + x + width, y0 + y + height)
    return dataclasses.replace(same[0], area=area, box=box, _label_map=label_map)
