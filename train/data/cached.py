"""A data set whose decoded samples stay in memory, up to a number of bytes."""

from __future__ import annotations

import numpy as np

from mask2edge.train.data.annotation import Annotation, Dataset


class Cached:
    """`data`, each sample decoded once while `budget` bytes last; the samples beyond are decoded anew every time.

    None is ever dropped: an epoch visits every sample once, and the one dropped would always be one that comes again
    sooner. Every process that reads has a cache of its own.
    """

    def __init__(self, data: Dataset, budget: int) -> None:
        self.data, self.root, self.split, self.labels = data, data.root, data.split, data.labels
        self.left = budget
        self._samples: dict[int, tuple[np.ndarray, Annotation]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return self.data.name(index)

    def image(self, index: int) -> np.ndarray:
        return self._samples[index][0] if index in self._samples else self.data.image(index)

    def annotation(self, index: int) -> Annotation:
        return self._samples[index][1] if index in self._samples else self.data.annotation(index)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        if index in self._samples:
            return self._samples[index]
        image, annotation = self.data[index]
        size = image.nbytes + annotation.planes.nbytes
        if size <= self.left:
            self.left -= size
            self._samples[index] = image, annotation
        return image, annotation
