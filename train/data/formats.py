"""Which format a folder has, which splits it holds, and the data set of one.

    data = open_dataset(Path("dsb2018"), "val", classes=("nucleus", "background"))

`auto` recognises the format. Of folders that have two, such as COCO's own, the richer one is taken: panoptic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data import (
    ade20k,
    cityscapes,
    coco_instances,
    coco_panoptic,
    instance_labels,
    mapillary,
    semantic_folder,
)
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.coco_categories import find_split
from mask2edge.train.data.coco_instances import CocoInstances
from mask2edge.train.data.coco_panoptic import CocoPanoptic
from mask2edge.train.data.instance_labels import InstanceLabels
from mask2edge.train.data.semantic_folder import SemanticFolder

# the first that finds a split is the format
SPLITS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "coco-panoptic": coco_panoptic.splits,
    "coco-instances": coco_instances.splits,
    "cityscapes": cityscapes.splits,
    "mapillary": mapillary.splits,
    "ade20k": ade20k.splits,
    "instance-labels": instance_labels.splits,
    "semantic": semantic_folder.splits,
}
FORMATS = ("auto", *SPLITS)
OPEN: dict[str, Callable[[Path, str, bool], Dataset]] = {  # but for instance-labels, which take class names
    "coco-panoptic": CocoPanoptic,
    "coco-instances": CocoInstances,
    "cityscapes": cityscapes.open_cityscapes,
    "mapillary": mapillary.open_mapillary,
    "ade20k": ade20k.open_ade20k,
    "semantic": SemanticFolder,
}


def recognise(root: Path) -> str:
    """The format of a folder, or of a JSON file. Raises InputError where it has none of them."""
    _must_be_there(root)
    for name, splits_of in SPLITS.items():
        if splits_of(root):
            return name
    if root.is_file():
        raise InputError(f"--data: expected a folder or a JSON file in COCO's format, got {root}")
    found = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:8]) or "no folders"
    raise InputError(
        f"{root}: expected train/ with trainannot/ or images/train/ with annotations/train/ (semantic), train/images "
        "with train/labels (instance-labels), annotations/panoptic_train.json or instances_train.json (COCO), or the "
        f"layout of Cityscapes, ADE20K or Mapillary Vistas; found {found}"
    )


def splits(root: Path, data_format: str = "auto") -> tuple[str, ...]:
    """The splits that the folder holds, by name. Raises InputError as `recognise`."""
    _must_be_there(root)
    return SPLITS[recognise(root) if data_format == "auto" else data_format](root)


def _must_be_there(root: Path) -> None:
    if not root.exists():
        raise InputError(f"--data: expected a folder, got {str(root)!r}, which is not there")


def find_named_split(root: Path, split: str, data_format: str) -> str:
    """The split as the folder spells it: val2017 for val. Raises InputError."""
    held = splits(root, data_format)
    found = find_split(held, split)
    if found is None:
        raise InputError(
            f"{root}: expected a split {split} of the format {data_format}; found {', '.join(held) or 'none'}"
        )
    return found


def default_split(root: Path, data_format: str = "auto") -> str:
    """val (or the only one that begins so), else the only split there is. Raises InputError."""
    found = splits(root, data_format)
    if (val := find_split(found, "val")) is not None:
        return val
    if len(found) != 1:
        raise InputError(f"{root}: expected a split val, or one split alone; got {', '.join(found) or 'none'}")
    return found[0]


def open_dataset(
    root: Path, split: str, data_format: str = "auto", classes: Sequence[str] = (), strict: bool = True
) -> Dataset:
    """One split of a data set. Raises InputError, as the format's class does.

    classes: names for instance label images, which carry none. strict: files that are missing raise; else their images
    are left out, and `faults` of the data set says so.
    """
    kind = recognise(root) if data_format == "auto" else data_format
    found = find_named_split(root, split, kind)
    if kind == "instance-labels":
        return InstanceLabels(root, found, classes, strict)
    return OPEN[kind](root, found, strict)
