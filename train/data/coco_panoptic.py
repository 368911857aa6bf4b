"""Panoptic data as COCO has it: the data format `coco-panoptic`.

    data = CocoPanoptic(Path("coco"), "val")
    image, annotation = data[0]

annotations/panoptic_SPLIT.json beside annotations/panoptic_SPLIT/*.png (a pixel's id is R + 256 G + 256² B, 0 = no
segment), images in SPLIT/ or images/SPLIT/. Format: https://cocodataset.org/#format-data, "panoptic segmentation".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.coco_categories import find_split, image_folder, labels_of_categories, read_coco_json
from mask2edge.train.data.image_file import read_ids, read_rgb, require_same_size

PREFIX = "panoptic_"


class CocoPanoptic:
    """One split; `train` also means the only one that begins so (train2017). Images come in the order of the JSON.

    Raises InputError where the JSON or a folder is missing. Images without a file, a PNG or an annotation, and segments
    of unknown categories: InputError where `strict`; else the images are left out and said in `faults`.
    """

    def __init__(self, root: Path, split: str, strict: bool = True) -> None:
        found = find_split(splits(root), split)
        if found is None:
            raise InputError(
                f"{root}: expected annotations/{PREFIX}{split}.json; found splits {', '.join(splits(root)) or 'none'}"
            )
        self.root, self.split = root, found
        self.json_path = root / "annotations" / f"{PREFIX}{found}.json"
        data = read_coco_json(self.json_path)
        self.labels: tuple[Label, ...] = labels_of_categories(data["categories"], self.json_path, all_things=False)
        self._label_ids = {label.category_id: label.id for label in self.labels}
        self.image_folder = image_folder(root, found)
        self.map_folder = self.json_path.with_suffix("")
        if not self.map_folder.is_dir():
            raise InputError(f"{self.map_folder}: missing; expected the PNG files of {self.json_path.name}")
        self.entries, self.faults = self._pair(data)
        if self.faults and strict:
            raise InputError(f"{len(self.faults)} faults in {self.json_path.name}; the first: {self.faults[0]}")
        if not self.entries:
            raise InputError(f"{self.json_path}: no image of it can be used; {self.faults[0]}")

    def _pair(self, data: dict[str, Any]) -> tuple[tuple[tuple[str, str, list[Any]], ...], tuple[str, ...]]:
        """(image file, PNG file, segments_info) of each image, and what is wrong with the others."""
        try:
            annotations = {row["image_id"]: (row["file_name"], row["segments_info"]) for row in data["annotations"]}
            images = [(row["id"], row["file_name"]) for row in data["images"]]
            for image, (_, segments) in annotations.items():
                if not all(isinstance(segment, dict) and isinstance(segment.get("id"), int) for segment in segments):
                    raise InputError(
                        f"{self.json_path}: annotation of image {image}: expected segments, each with a whole number "
                        "as its id"
                    )
            unknown = {
                image: sorted({s["category_id"] for s in segments} - self._label_ids.keys())
                for image, (_, segments) in annotations.items()
            }
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.json_path}: expected COCO's panoptic format, a field is missing: {error}"
            ) from error
        pictures, maps = ({path.name for path in folder.iterdir()} for folder in (self.image_folder, self.map_folder))
        entries, faults = [], []
        for image, name in images:
            if image not in annotations:
                faults.append(f"{name}: no annotation in {self.json_path.name}")
            elif name not in pictures:
                faults.append(f"{self.image_folder / name}: missing")
            elif annotations[image][0] not in maps:
                faults.append(f"{self.map_folder / annotations[image][0]}: missing, the PNG of {name}")
            elif unknown[image]:
                faults.append(
                    f"{name}: category {unknown[image][0]} is not among the categories of {self.json_path.name}"
                )
            else:
                entries.append((name, *annotations[image]))
        return tuple(entries), tuple(faults)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index][0]

    def segments_info(self, index: int) -> list[dict[str, Any]]:
        """As the JSON has it: id, category_id, iscrowd, area, bbox."""
        return self.entries[index][2]

    def ids(self, index: int) -> np.ndarray:
        """The PNG's segment ids, int32 [H, W]."""
        return read_ids(self.map_folder / self.entries[index][1])

    def image(self, index: int) -> np.ndarray:
        return read_rgb(self.image_folder / self.entries[index][0])

    def annotation(self, index: int) -> Annotation:
        """The segments in the order of the JSON. Raises InputError where the PNG holds an id that the JSON does not."""
        segments, ids = self.segments_info(index), self.ids(index)  # ids: [H, W]
        named = np.array([0, *(segment["id"] for segment in segments)], np.int64)  # [n + 1]; 0 = no segment
        order = np.argsort(named, kind="stable")
        place = np.minimum(np.searchsorted(named[order], ids), len(segments))  # [H, W]
        wrong = named[order][place] != ids  # [H, W]
        if wrong.any():
            raise InputError(
                f"{self.map_folder / self.entries[index][1]}: segment id {int(ids[wrong][0])} is not in "
                f"{self.json_path.name}"
            )
        return Annotation(
            order.astype(np.int32)[place][None],  # [1, H, W]
            np.array([self._label_ids[segment["category_id"]] for segment in segments], np.int64),
            np.array([bool(segment.get("iscrowd", 0)) for segment in segments], bool),
        )

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.image(index), self.annotation(index)
        name, map_name, _ = self.entries[index]
        require_same_size(image, annotation.planes, self.image_folder / name, self.map_folder / map_name)
        return image, annotation


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, by name; empty where it is no such folder."""
    return tuple(sorted(path.stem.removeprefix(PREFIX) for path in (root / "annotations").glob(f"{PREFIX}*.json")))
