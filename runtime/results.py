"""What comes out: a label map and its segments, in the original image's coordinates. NumPy and OpenCV only.

result = segmenter(image, task="panoptic")
for segment in result.segments:
    print(segment.id, segment.label, segment.score, segment.area, segment.box)
cv2.imwrite("overlay.jpg", result.draw(image))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask2edge.runtime import rle
from mask2edge.runtime.spec import Label


@dataclass(frozen=True, eq=False)
class Segment:
    """One region of one class."""

    id: int  # its value in the label map: from 1, or in semantic results the class itself
    label_id: int
    label: str
    is_thing: bool | None
    # panoptic: the query's class score (the highest of those merged into a stuff segment); instance: class score x mean
    # mask score; semantic: the mean over its pixels of the class's score there, a sum over queries that may exceed 1
    score: float
    area: int  # pixels
    box: tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels, x1 and y1 exclusive
    _label_map: np.ndarray = field(repr=False)
    # Instances may overlap, so each keeps its own mask; as run lengths, a hundredth of the pixels.
    _counts: np.ndarray | None = field(default=None, repr=False)

    @property
    def mask(self) -> np.ndarray:
        """bool [H, W], made anew at each call; an instance's includes what others cover."""
        if self._counts is None:
            return self._label_map == self.id
        height, width = self._label_map.shape
        return rle.decode(self._counts, (height, width))

    @property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO's {"size": [H, W], "counts": compressed string}."""
        counts = rle.encode(self.mask, self.box) if self._counts is None else self._counts
        return {"size": list(self._label_map.shape), "counts": rle.to_string(counts)}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one image.

    `label_map`, int32 [H, W], holds: panoptic: segment ids from 1, 0 = none; semantic: class ids; instance: ids from 1
    in painting order of rising score, so that the surest lies on top, 0 = none.
    """

    label_map: np.ndarray
    segments: tuple[Segment, ...]
    task: str
    labels: tuple[Label, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.label_map.shape[0], self.label_map.shape[1]

    def draw(
        self, image: np.ndarray, opacity: float = 0.5, outlines: bool = True, names: bool = True, min_score: float = 0.5
    ) -> np.ndarray:
        """A copy of the image, uint8 [H, W, 3] BGR, with the segments in colour.

        `min_score` hides the instances below it: the reference always returns the best hundred, most of them chance.
        Raises InputError where the image has another size.
        """
        from mask2edge.runtime.drawing import draw  # it imports this module

        return draw(self, image, opacity, outlines, names, min_score)
