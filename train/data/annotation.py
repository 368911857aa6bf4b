"""What an image shows: segments, each a class and a region. Every data format is read into this, and NumPy is enough.

    annotation.mask(0)                    # bool [H, W]
    semantic_map(annotation, ignore=255)  # [H, W], one class a pixel

A data set is a sequence of (image, annotation) with a table of labels; see `Dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mask2edge.runtime.spec import Label


@dataclass(frozen=True, eq=False)
class Annotation:
    """Segments of one image, in no particular order.

    planes     int32 [P, H, W]: k + 1 where segment k lies, 0 where no segment does. Segments that do not overlap share
               a plane, so panoptic, semantic and instance-index data have one; instances that overlap need a few.
    label_ids  int64 [n]: the class of each segment, an index into the data set's labels
    crowd      bool [n]: a region of several objects of the class that were not told apart (COCO's iscrowd)
    """

    planes: np.ndarray
    label_ids: np.ndarray
    crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.label_ids)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.planes.shape[1], self.planes.shape[2]

    def mask(self, segment: int) -> np.ndarray:
        """bool [H, W]"""
        return (self.planes == segment + 1).any(0)


class Dataset(Protocol):
    """One split of a data set in any format. Images are RGB uint8 [H, W, 3]; arrays may be shared: do not write."""

    root: Path
    split: str
    labels: tuple[Label, ...]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's file name, for messages and results."""

    def image(self, index: int) -> np.ndarray: ...

    def annotation(self, index: int) -> Annotation: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        """Image and annotation of one size. Raises InputError, with the file's name, where either cannot be read."""


def semantic_map(annotation: Annotation, ignore: int) -> np.ndarray:
    """The class of every pixel, int64 [H, W]; `ignore` where no segment lies. Later planes lie on top."""
    classes = np.append(ignore, annotation.label_ids)  # [n + 1]
    result = np.full(annotation.size, ignore, np.int64)  # [H, W]
    for plane in annotation.planes:
        result = np.where(plane > 0, classes[plane], result)
    return result
