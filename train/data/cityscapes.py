"""Cityscapes as it is downloaded: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*.

    data = open_cityscapes(Path("cityscapes"), "val")

Instances where *_gtFine_instanceIds.png are there, else classes alone from *_gtFine_labelTrainIds.png. In an instance
image a value below 1000 is a class id: stuff, or a group of things, a crowd; above, 1000 * class id + instance
(cityscapesscripts: preparation/json2instanceImg.py, createPanopticImgs.py; class ids: helpers/labels.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.indexed_instances import IndexedInstances
from mask2edge.train.data.semantic_folder import Pair, SemanticMaps, existing
from mask2edge.train.labels import load_labels

IMAGES, MAPS = "leftImg8bit", "gtFine"
LABELS = load_labels("cityscapes")  # category_id: the class id; the 19 that are evaluated
_CLASS = {label.category_id: label.id for label in LABELS}


def open_cityscapes(root: Path, split: str, strict: bool = True) -> Dataset:
    """Raises InputError where a folder is missing, or label images are and `strict`."""
    images = sorted((root / IMAGES / split).glob(f"*/*_{IMAGES}.png"))
    if not images:
        raise InputError(f"{root}: expected images {IMAGES}/{split}/CITY/*_{IMAGES}.png, found none")
    instances = _pairs(root, images, "instanceIds")
    if any(label.is_file() for _, label in instances):
        pairs, faults = existing(instances, root / MAPS / split, strict)
        return IndexedInstances(root, split, LABELS, pairs, faults, decode)
    pairs, faults = existing(_pairs(root, images, "labelTrainIds"), root / MAPS / split, strict)
    return SemanticMaps(root, split, [replace(label, is_thing=None) for label in LABELS], pairs, faults)


def decode(value: int) -> tuple[int, bool] | None:
    """(class, crowd) of a value in an instance image; None for a class that is not evaluated."""
    grouped = value < 1000
    label_id = _CLASS.get(value if grouped else value // 1000)
    return None if label_id is None else (label_id, grouped and bool(LABELS[label_id].is_thing))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds with labels, by name; empty where it is no such folder."""
    return tuple(
        sorted(path.name for path in (root / IMAGES).glob("*") if path.is_dir() and (root / MAPS / path.name).is_dir())
    )


def _pairs(root: Path, images: list[Path], kind: str) -> list[Pair]:
    pairs = []
    for path in images:
        split, city = path.parts[-3:-1]
        name = path.name.removesuffix(f"{IMAGES}.png") + f"{MAPS}_{kind}.png"
        pairs.append((path, root / MAPS / split / city / name))
    return pairs
