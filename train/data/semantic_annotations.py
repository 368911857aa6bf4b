"""A semantic folder as a data set of annotations: each class that an image shows is one segment.

data = SemanticAnnotations(SemanticFolder(root, "val"))
image, annotation = data[0]
"""

from __future__ import annotations

import numpy as np

from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.labels import labels_from_names


class SemanticAnnotations:
    """See `Dataset`. Things are unknown."""

    def __init__(self, folder: SemanticFolder) -> None:
        self._folder = folder
        self.root, self.split = folder.root, folder.split
        self.labels = labels_from_names(folder.class_names)

    def __len__(self) -> int:
        return len(self._folder)

    def name(self, index: int) -> str:
        return self._folder.pairs[index][0].name

    def image(self, index: int) -> np.ndarray:
        return self._folder.image(index)

    def annotation(self, index: int) -> Annotation:
        return self._annotation(self._folder.label_map(index))

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, label_map = self._folder[index]
        return image, self._annotation(label_map)

    def _annotation(self, label_map: np.ndarray) -> Annotation:
        places = np.zeros(self._folder.ignore + 1, np.int32)
        present = np.setdiff1d(label_map, self._folder.ignore)
        places[present] = np.arange(1, len(present) + 1)
        return Annotation(places[label_map][None], present.astype(np.int64), np.zeros(len(present), bool))
