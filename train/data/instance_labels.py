"""Images with one index per object: the data format `instance-labels`, as microscopy data often comes.

    data = InstanceLabels(Path("dsb2018"), "val", ("nucleus", "background"))
    image, annotation = data[0]

SPLIT/images beside SPLIT/labels; a label image is a one-channel PNG of 8 or 16 bits, named like its image: 0 is
background, n is object n. All objects are of one class, a thing; a second class name makes the background a segment of
stuff, so that panoptic output says something about every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.image_file import read_index_map, read_rgb, require_same_size
from mask2edge.train.data.semantic_folder import CLASSES_FILE, paired, read_class_names
from mask2edge.train.labels import labels_from_names

DEFAULT_CLASSES = ("object",)


class InstanceLabels:
    """One split. classes: the name of the objects, and optionally one of the background; default: classes.txt, else
    "object". Raises InputError where a folder is missing, or label images are and `strict`; else these are left out and
    said in `faults`.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str] = (), strict: bool = True) -> None:
        self.root, self.split = root, split
        names = (
            tuple(classes)
            or (read_class_names(root / CLASSES_FILE) if (root / CLASSES_FILE).is_file() else ())
            or DEFAULT_CLASSES
        )
        if len(names) > 2:
            raise InputError(
                f"{root}: instance label images hold one class of objects and a background; expected one name or two "
                f"(data.classes), got {', '.join(names)}"
            )
        self.labels: tuple[Label, ...] = labels_from_names(names, (True, False)[: len(names)])
        image_folder, label_folder = root / split / "images", root / split / "labels"
        for folder in (image_folder, label_folder):
            if not folder.is_dir():
                raise InputError(f"{folder}: missing; expected {split}/images with {split}/labels")
        self.pairs, self.faults = paired(image_folder, label_folder, strict)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].name

    def image(self, index: int) -> np.ndarray:
        return read_rgb(self.pairs[index][0])

    def annotation(self, index: int) -> Annotation:
        """The objects in the order of their indices, then the background where it is a class and to be seen."""
        values = read_index_map(self.pairs[index][1])  # [H, W]
        present = np.flatnonzero(np.bincount(values.ravel()))  # [n] or [n + 1]
        objects = present[present > 0]  # [n]
        places = np.zeros(int(values.max()) + 1, np.int32)
        places[objects] = np.arange(1, len(objects) + 1)
        label_ids = np.zeros(len(objects), np.int64)  # [n]
        if len(self.labels) == 2 and len(objects) < len(present):
            places[0] = len(objects) + 1
            label_ids = np.append(label_ids, 1)
        return Annotation(places[values][None], label_ids, np.zeros(len(label_ids), bool))

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.image(index), self.annotation(index)
        require_same_size(image, annotation.planes, *self.pairs[index])
        return image, annotation


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, by name; empty where it is no such folder."""
    return tuple(
        sorted(
            path.parent.name for path in root.glob("*/labels") if path.is_dir() and (path.parent / "images").is_dir()
        )
    )
