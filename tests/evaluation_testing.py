"""Annotations and results to evaluate: made by chance, by hand, and read from the real data by a few plain lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime import rle
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"
COCO = DATA / "coco_panoptic_mini"
NUCLEI = DATA / "dsb2018"
NUCLEI_COUNT = 67  # images of the validation split


def labels_of(things: str, stuff: str = "") -> tuple[Label, ...]:
    """labels_of("ab", "c"): two things and one stuff class."""
    return tuple(Label(i, name, name in things, (0, 0, 0), 100 + i) for i, name in enumerate(things + stuff))


NUCLEUS = Label(0, "nucleus", True, (0, 0, 0), 0)
BACKGROUND = Label(1, "background", False, (0, 0, 0), 1)


class Samples:
    """A data set that is in memory already."""

    def __init__(self, labels: Sequence[Label], samples: Sequence[tuple[np.ndarray, Annotation]]) -> None:
        self.root, self.split, self.labels, self.samples = Path("made-up"), "val", tuple(labels), samples

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> np.ndarray:
        return self.samples[index][0]

    def annotation(self, index: int) -> Annotation:
        return self.samples[index][1]

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        return self.samples[index]


def annotation_of(segment_map: np.ndarray, labels: Sequence[int], crowd: Sequence[int] = ()) -> Annotation:
    """segment_map [H, W]: 1, 2, … and 0 for void; crowd: the numbers of the segments that are."""
    is_crowd = np.isin(np.arange(1, len(labels) + 1), list(crowd))
    return Annotation(np.asarray(segment_map, np.int32)[None], np.array(labels, np.int64), is_crowd)


def panoptic_result(segment_map: np.ndarray, classes: Sequence[int], labels: Sequence[Label]) -> Segmentation:
    """segment_map [H, W]: 1, 2, … and 0 for none."""
    segment_map = np.asarray(segment_map, np.int32)
    segments = tuple(
        Segment(number, k, labels[k].name, labels[k].is_thing, 0.9, int((segment_map == number).sum()), (0, 0, 1, 1),
                segment_map)
        for number, k in enumerate(classes, start=1)
    )  # fmt: skip
    return Segmentation(segment_map, segments, "panoptic", tuple(labels))


def instance_result(
    masks: Sequence[np.ndarray], classes: Sequence[int], scores: Sequence[float], labels: Sequence[Label], size: tuple
) -> Segmentation:
    label_map = np.zeros(size, np.int32)
    segments = tuple(
        Segment(number, k, labels[k].name, True, float(score), int(mask.sum()), (0, 0, 1, 1), label_map,
                rle.encode(mask))
        for number, (mask, k, score) in enumerate(zip(masks, classes, scores, strict=True), start=1)
    )  # fmt: skip
    return Segmentation(label_map, segments, "instance", tuple(labels))


def blobs(generator: np.random.Generator, size: tuple[int, int], most: int) -> list[np.ndarray]:
    """Ellipses, bool [H, W] each, overlapping as they fall."""
    masks = []
    for _ in range(generator.integers(0, most + 1)):
        mask = np.zeros(size, np.uint8)
        centre = [int(generator.integers(0, length)) for length in size[::-1]]
        axes = [int(generator.integers(1, max(2, length // 2))) for length in size[::-1]]
        cv2.ellipse(mask, centre, axes, float(generator.uniform(0, 180)), 0, 360, 1, -1)
        masks.append(mask.astype(bool))
    return masks


def flattened(masks: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """Later masks on top: map [H, W] of 1, 2, … and which of the masks these are: those of which something is seen."""
    painted = np.zeros(size, np.int32)
    for number, mask in enumerate(masks, start=1):
        painted[mask] = number
    seen = [int(number) for number in np.unique(painted) if number]
    renumbered = np.zeros(len(masks) + 1, np.int32)
    renumbered[seen] = np.arange(1, len(seen) + 1)
    return renumbered[painted], [number - 1 for number in seen]


def perturbed(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Moved and grown or shrunk by some pixels: bool [H, W]."""
    step = max(1, int(np.sqrt(mask.sum()) / 8))
    shift = np.float32([[1, 0, generator.integers(-step, step + 1)], [0, 1, generator.integers(-step, step + 1)]])
    moved = cv2.warpAffine(mask.astype(np.uint8), shift, mask.shape[::-1])
    kernel = np.ones([generator.integers(1, step + 2)] * 2, np.uint8)
    return (cv2.dilate if generator.random() < 0.5 else cv2.erode)(moved, kernel).astype(bool)


def coco_labels() -> tuple[Label, ...]:
    rows = json.loads((COCO / "annotations/panoptic_val2017.json").read_text())["categories"]
    return tuple(Label(i, row["name"], bool(row["isthing"]), (0, 0, 0), row["id"]) for i, row in enumerate(rows))


def coco_annotations() -> Iterator[Annotation]:
    """The 40 images' panoptic labels, read without our reader."""
    content = json.loads((COCO / "annotations/panoptic_val2017.json").read_text())
    places = {label.category_id: label.id for label in coco_labels()}
    for row in content["annotations"]:
        blue, green, red = cv2.split(cv2.imread(str(next(COCO.rglob(row["file_name"])))).astype(np.int64))
        ids = red + 256 * green + 65536 * blue  # [H, W]
        segments = row["segments_info"]
        planes = np.zeros(ids.shape, np.int32)
        for number, segment in enumerate(segments, start=1):
            planes[ids == segment["id"]] = number
        crowd = [number for number, segment in enumerate(segments, start=1) if segment["iscrowd"]]
        yield annotation_of(planes, [places[segment["category_id"]] for segment in segments], crowd)


def nuclei_annotations(count: int) -> Iterator[Annotation]:
    for path in sorted((NUCLEI / "val/labels").glob("*.png"))[:count]:
        label_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        values = np.unique(label_map)
        yield annotation_of(np.searchsorted(np.union1d(values, [0]), label_map), [0] * int((values > 0).sum()))


def with_background(annotation: Annotation) -> Annotation:
    """Of one plane and one class: what no segment covers is one more segment, of class 1."""
    (plane,) = annotation.planes  # [H, W]
    count = len(annotation)
    return annotation_of(np.where(plane == 0, count + 1, plane), [*annotation.label_ids, 1])
