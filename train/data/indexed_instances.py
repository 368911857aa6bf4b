"""Label images whose values name a class and an instance at once, as Cityscapes and Mapillary Vistas have them.

    data = IndexedInstances(root, "val", labels, pairs, faults, decode)

decode(value) is (class, crowd) of a segment, or None where such pixels count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.image_file import read_index_map, read_rgb, require_same_size
from mask2edge.train.data.semantic_folder import Pair


class IndexedInstances:
    """One split; every value of a label image is one segment. faults: what is wrong with images left out."""

    def __init__(
        self,
        root: Path,
        split: str,
        labels: Sequence[Label],
        pairs: Sequence[Pair],
        faults: Sequence[str],
        decode: Callable[[int], tuple[int, bool] | None],
    ) -> None:
        self.root, self.split, self.labels = root, split, tuple(labels)
        self.pairs, self.faults, self._decode = tuple(pairs), tuple(faults), decode

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].name

    def image(self, index: int) -> np.ndarray:
        return read_rgb(self.pairs[index][0])

    def annotation(self, index: int) -> Annotation:
        """Segments in the order of their values."""
        values = read_index_map(self.pairs[index][1])  # [H, W]
        present = np.flatnonzero(np.bincount(values.ravel()))
        decoded = [(value, segment) for value in present if (segment := self._decode(int(value))) is not None]
        places = np.zeros(int(values.max()) + 1, np.int32)
        for place, (value, _) in enumerate(decoded):
            places[value] = place + 1
        return Annotation(
            places[values][None],  # [1, H, W]
            np.array([label_id for _, (label_id, _) in decoded], np.int64),
            np.array([crowd for _, (_, crowd) in decoded], bool),
        )

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.image(index), self.annotation(index)
        require_same_size(image, annotation.planes, *self.pairs[index])
        return image, annotation
