"""Mapillary Vistas as it is downloaded: SPLIT/images with SPLIT/v1.2/ (or SPLIT/) instances and labels.

    data = open_mapillary(Path("vistas"), "validation")

Instances where the 16-bit PNGs of instances/ are there (256 * class + instance), else classes alone from labels/, whose
PNGs have a palette. Class 65 is "unlabeled" and counts for nothing. Facts: the data set's own README, version 1.2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.indexed_instances import IndexedInstances
from mask2edge.train.data.semantic_folder import SemanticMaps, paired
from mask2edge.train.labels import load_labels

SPLITS = ("training", "validation")


def open_mapillary(root: Path, split: str, strict: bool = True) -> Dataset:
    """Raises InputError where a folder is missing, or label images are and `strict`."""
    labels, images = load_labels("mapillary"), root / split / "images"
    for kind in ("instances", "labels"):
        for folder in (root / split / "v1.2" / kind, root / split / kind):
            if images.is_dir() and folder.is_dir():
                pairs, faults = paired(images, folder, strict)
                if kind == "instances":
                    return IndexedInstances(root, split, labels, pairs, faults, decode)
                return SemanticMaps(root, split, [replace(label, is_thing=None) for label in labels], pairs, faults)
    raise InputError(f"{root}: expected {split}/images with {split}/v1.2/instances or {split}/v1.2/labels")


def decode(value: int) -> tuple[int, bool] | None:
    """(class, crowd) of a value in an instance image; None where it is unlabeled."""
    label_id = value >> 8
    return None if label_id >= 65 else (label_id, False)


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds with labels, by name; empty where it is no such folder."""
    kinds = ("v1.2/instances", "v1.2/labels", "instances")  # images and labels alone may be any data
    return tuple(
        split
        for split in SPLITS
        if (root / split / "images").is_dir() and any((root / split / kind).is_dir() for kind in kinds)
    )
