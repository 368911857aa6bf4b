"""Instances as COCO has them, polygons and RLE: the data format `coco-instances`.

    data = CocoInstances(Path("coco"), "val")
    data = CocoInstances(Path("mine/labels.json"), "labels")      # one JSON file, images beside it or in images/

annotations/instances_SPLIT.json, or SPLIT/_annotations.coco.json as some tools write it; images where the first one of
the JSON is found: SPLIT/, images/SPLIT/, images/, or beside the JSON. All categories are things. Masks are decoded by
pycocotools. Format: https://cocodataset.org/#format-data, "object detection".
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.coco_categories import find_split, labels_of_categories, read_coco_json
from mask2edge.train.data.image_file import read_rgb, require_same_size

PREFIX, BESIDE = "instances_", "_annotations.coco.json"


class CocoInstances:
    """One split, or one JSON file; `train` also means the only split that begins so. Images as the JSON orders them.

    Raises InputError where JSON, folder or pycocotools is missing. Images without a file, instances of unknown images
    or categories: InputError where `strict`; else they are left out and said in `faults`.
    """

    def __init__(self, root: Path, split: str, strict: bool = True) -> None:
        self.root, self.json_path = root, _json_of(root, split)
        self.split = (
            self.json_path.parent.name if self.json_path.name == BESIDE else self.json_path.stem.removeprefix(PREFIX)
        )
        if importlib.util.find_spec("pycocotools") is None:
            raise InputError(f"{self.json_path}: COCO's polygons and RLE need pycocotools; pip install pycocotools")
        data = read_coco_json(self.json_path)
        self.labels: tuple[Label, ...] = labels_of_categories(data["categories"], self.json_path, all_things=True)
        self._label_ids = {label.category_id: label.id for label in self.labels}
        try:
            self.entries, self.faults = self._read(data)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.json_path}: expected COCO's instances, a field is missing: {error!r}") from error
        if self.faults and strict:
            raise InputError(f"{len(self.faults)} faults in {self.json_path.name}; the first: {self.faults[0]}")
        if not self.entries:
            raise InputError(f"{self.json_path}: no image of it can be used; {self.faults[0]}")

    def _read(
        self, data: dict[str, Any]
    ) -> tuple[tuple[tuple[dict[str, Any], list[dict[str, Any]]], ...], tuple[str, ...]]:
        """(image, its instances) in the JSON's words, and what is wrong with what was left out."""
        self._images = _image_folder(self.root, self.split, self.json_path, data["images"][0]["file_name"])
        instances, faults = defaultdict(list), []
        known = {image["id"] for image in data["images"]}
        for place, row in enumerate(data["annotations"]):
            if not isinstance(row, dict) or not {"image_id", "category_id"} <= row.keys():
                raise InputError(
                    f"{self.json_path}: annotations[{place}]: expected an object with image_id, category_id and "
                    f"segmentation, got {str(row)[:80]}"
                )
            row.setdefault("id", f"[{place}]")  # some tools write none; the messages need a name
            if row["image_id"] not in known:
                faults.append(f"annotation {row['id']}: image {row['image_id']} is not among the images of the JSON")
            elif row["category_id"] not in self._label_ids:
                faults.append(f"annotation {row['id']}: category {row['category_id']} is not among the categories")
            elif not row.get("segmentation"):
                faults.append(f"annotation {row['id']}: no segmentation, which says where the object lies")
            else:
                instances[row["image_id"]].append(row)
        entries = []
        for image in data["images"]:
            if (self._images / image["file_name"]).is_file():
                entries.append(
                    ({**image, "height": int(image["height"]), "width": int(image["width"])}, instances[image["id"]])
                )
            else:
                faults.append(f"{self._images / image['file_name']}: missing")
        return tuple(entries), tuple(faults)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return str(self.entries[index][0]["file_name"])

    def instances(self, index: int) -> list[dict[str, Any]]:
        """As the JSON has them: category_id, segmentation, area, bbox, iscrowd; and id, else the place in brackets."""
        return self.entries[index][1]

    def mask(self, index: int, instance: dict[str, Any]) -> np.ndarray:
        """bool [H, W] of one of `instances(index)`. Raises InputError, with its id, where it cannot be decoded."""
        from pycocotools import mask as coco_mask

        image, segmentation = self.entries[index][0], instance["segmentation"]
        size = image["height"], image["width"]
        try:
            if isinstance(segmentation, list):  # polygons
                # two points have no area, and pycocotools takes their four numbers for a box
                polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
                if not polygons:
                    raise ValueError("no polygon has three points")
                encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
            elif isinstance(segmentation["counts"], list):  # RLE, uncompressed
                encoded = coco_mask.frPyObjects(segmentation, *size)
            else:
                encoded = segmentation
            if tuple(encoded["size"]) != size:
                raise ValueError(f"its size is {encoded['size']}, the image's {list(size)}")
            return coco_mask.decode(encoded).astype(bool)  # [H, W]
        except Exception as error:  # the library raises plain Exception for what it does not take
            raise InputError(
                f"{self.json_path}: annotation {instance['id']} of {image['file_name']}: expected polygons or an RLE "
                f"of the image's size, got what cannot be decoded ({error})"
            ) from error

    def image(self, index: int) -> np.ndarray:
        return read_rgb(self._images / self.name(index))

    def annotation(self, index: int) -> Annotation:
        """The instances in the order of the JSON; each lies on the first plane where it covers no other."""
        instances, image = self.instances(index), self.entries[index][0]
        planes = [np.zeros((image["height"], image["width"]), np.int32)]  # [H, W] each
        for place, instance in enumerate(instances):
            mask = self.mask(index, instance)  # [H, W]
            free = next((plane for plane in planes if not plane[mask].any()), None)
            if free is None:
                free = np.zeros_like(planes[0])
                planes.append(free)
            free[mask] = place + 1
        return Annotation(
            np.stack(planes),  # [P, H, W]
            np.array([self._label_ids[instance["category_id"]] for instance in instances], np.int64),
            np.array([bool(instance.get("iscrowd", 0)) for instance in instances], bool),
        )

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.image(index), self.annotation(index)
        require_same_size(image, annotation.planes, self._images / self.name(index), self.json_path)
        return image, annotation


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, or the one of a JSON file, by name; empty where it is neither."""
    if root.is_file():
        return (root.stem.removeprefix(PREFIX),) if root.suffix == ".json" else ()
    named = [path.stem.removeprefix(PREFIX) for path in (root / "annotations").glob(f"{PREFIX}*.json")]
    return tuple(sorted(named + [path.parent.name for path in root.glob(f"*/{BESIDE}")]))


def _json_of(root: Path, split: str) -> Path:
    if root.is_file():
        return root
    found = find_split(splits(root), split)
    if found is None:
        raise InputError(
            f"{root}: expected annotations/{PREFIX}{split}.json or {split}/{BESIDE}; "
            f"found splits {', '.join(splits(root)) or 'none'}"
        )
    named = root / "annotations" / f"{PREFIX}{found}.json"
    return named if named.is_file() else root / found / BESIDE


def _image_folder(root: Path, split: str, json_path: Path, first: str) -> Path:
    base = root.parent if root.is_file() else root
    folders = [base / split, base / "images" / split, base / "images", json_path.parent]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    raise InputError(
        f"{json_path}: its first image, {first}, is in none of {', '.join(str(folder) for folder in folders)}"
    )
