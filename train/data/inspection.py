"""What a split holds and what is wrong with it: sizes, segments, classes, small objects, and faults by name.

found = inspect(open_dataset(root, "train", strict=False))
found.faults, found.report()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset
from mask2edge.train.data.coco_instances import CocoInstances
from mask2edge.train.data.coco_panoptic import CocoPanoptic
from mask2edge.train.data.image_file import complaints_of_decoders
from mask2edge.train.data.semantic_folder import SemanticMaps

SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds of small and medium objects


@dataclass
class Inspection:
    """Counts over the images that can be read.

    faults: a line each, with the file's name. Images that are missing or cannot be read, which training refuses or
    skips; and, of COCO's formats, segments that are empty or of another area than stated, which it takes as they are.
    remarks: what is odd but allowed.
    """

    labels: tuple[Label, ...]
    split: str
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (H, W)
    segments: list[int] = field(default_factory=list)  # of each image
    class_segments: np.ndarray = field(init=False)  # [K]
    class_images: np.ndarray = field(init=False)  # [K]
    class_pixels: np.ndarray = field(init=False)  # [K]
    thing_areas: list[int] = field(default_factory=list)
    crowds: int = 0
    pixels: int = 0
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.class_segments, self.class_images, self.class_pixels = np.zeros((3, len(self.labels)), np.int64)

    def add(self, name: str, annotation: Annotation) -> None:
        """Counts an image. One without a segment is remarked on."""
        areas = segment_areas(annotation)  # [n]
        counted = ~annotation.crowd
        self.images += 1
        self.sizes[annotation.size] += 1
        self.segments.append(int(counted.sum()))
        self.crowds += int(annotation.crowd.sum())
        self.pixels += annotation.size[0] * annotation.size[1]
        classes = len(self.labels)
        self.class_segments += np.bincount(annotation.label_ids[counted], minlength=classes)
        self.class_images += np.bincount(np.unique(annotation.label_ids), minlength=classes)
        self.class_pixels += np.bincount(annotation.label_ids, areas, minlength=classes).astype(np.int64)
        things = np.array([bool(label.is_thing) for label in self.labels])[annotation.label_ids]  # [n]
        self.thing_areas += areas[things & counted & (areas > 0)].tolist()
        if not len(annotation):
            self.remarks.append(f"{name}: no segment")

    def report(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        segments, areas = np.array(self.segments or [0]), np.array(self.thing_areas, np.int64)
        return {
            "split": self.split,
            "images": self.images,
            "sizes": [{"height": h, "width": w, "images": n} for (h, w), n in self.sizes.most_common()],
            "segments_per_image": {
                "mean": float(segments.mean()),
                "median": float(np.median(segments)),
                "max": int(segments.max()),
            },
            "crowds": self.crowds,
            "objects": {
                "small": int((areas < SMALL).sum()),
                "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
                "large": int((areas >= MEDIUM).sum()),
            },
            "classes": [
                {
                    "name": label.name,
                    "is_thing": label.is_thing,
                    "segments": int(self.class_segments[label.id]),
                    "images": int(self.class_images[label.id]),
                    "pixel_share": float(self.class_pixels[label.id] / max(1, self.pixels)),
                }
                for label in self.labels
            ],
            "faults": self.faults,
            "remarks": self.remarks,
        }


def inspect(
    data: Dataset, indices: Iterable[int] | None = None, shown: Callable[[Iterable[int]], Iterable[int]] = iter
) -> Inspection:
    """Reads every image, or those of `indices`; `shown` wraps their sequence in a progress bar."""
    found = Inspection(data.labels, data.split, faults=list(getattr(data, "faults", ())))
    unnamed = 0
    for index in shown(range(len(data)) if indices is None else indices):
        name = data.name(index)
        try:
            with complaints_of_decoders() as complaints:
                _, annotation = data[index]
        except InputError as error:
            found.faults.append(str(error))
            continue
        found.add(name, annotation)
        found.faults += [f"{name}: a picture is made of it, but {complaint}" for complaint in complaints]
        found.faults += [f"{name}: {fault}" for fault in _stated(data, index, segment_areas(annotation))]
        if isinstance(data, SemanticMaps):
            unnamed += data.unnamed(index)
    if isinstance(data, SemanticMaps) and unnamed:
        found.remarks.append(data.about_unnamed(unnamed, found.pixels))
    return found


def segment_areas(annotation: Annotation) -> np.ndarray:
    """Pixels of each segment, int64 [n]."""
    return np.bincount(annotation.planes.ravel(), minlength=len(annotation) + 1)[1:]


def _stated(data: Dataset, index: int, areas: np.ndarray) -> Iterable[str]:
    """Where the pixels are not what the JSON of a COCO format states."""
    if isinstance(data, CocoPanoptic):
        rows = data.segments_info(index)
        tolerances = [0.0] * len(rows)
    elif isinstance(data, CocoInstances):
        rows = data.instances(index)
        tolerances = [_tolerance(row) for row in rows]
    else:
        return
    for row, area, tolerance in zip(rows, areas.tolist(), tolerances, strict=True):
        if not area:
            yield f"segment {row['id']} is empty: no pixel of it"
        elif isinstance(stated := row.get("area"), (int, float)) and abs(stated - area) > tolerance:
            yield f"segment {row['id']} has {area} pixels, its stated area is {stated:g}"


def _tolerance(row: dict[str, Any]) -> float:
    """Pixels by which an instance may differ from its area: a polygon's, whose pixels differ by a part of its outline.

    Area and box may be null or missing, as some tools leave them.
    """
    area, box = row.get("area"), row.get("bbox")
    outline = sum(box[2:]) if isinstance(box, list) and all(isinstance(side, (int, float)) for side in box) else 0
    return 0.05 * (area if isinstance(area, (int, float)) else 0) + 2 * outline + 2
