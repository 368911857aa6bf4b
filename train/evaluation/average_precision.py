"""Average precision of instance masks by COCO's protocol, image by image; hotcoco does the matching.

    precision = AveragePrecision(things, detections=300)
    precision.add(annotation, result)      # once per image
    precision.metrics()                    # {"AP": 0.41, "AP50": 0.68, …}

AP is the mean over IoU thresholds 0.50, 0.55 … 0.95 and over classes; small, medium and large are areas up to 32²,
96² and above, in pixels of the mask. A crowd is a region to ignore: detections inside it count neither way. At most
`detections` of each class and image count, the surest; COCO has 100. What is kept of an image are its matches: the
masks of a data set are never in memory together. See docs/decisions/0009-evaluators.md for the choice of library.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation

AREAS = {"": 0, "_small": 1, "_medium": 2, "_large": 3}  # places in COCO's areaRng
FIRST_HALF, THREE_QUARTERS = 0, 5  # places of IoU 0.50 and 0.75 in COCO's iouThrs


class AveragePrecision:
    """`labels`: the classes that count; segments of others are passed over, true or predicted."""

    def __init__(self, labels: Sequence[Label], detections: int = 100) -> None:
        """Raises InputError where hotcoco is not installed."""
        try:
            from hotcoco import Params, StreamingEval
        except ImportError as error:
            raise InputError(
                f"AP: expected the package hotcoco, which cannot be imported ({error}); "
                "pip install 'mask2edge[accuracy]'"
            ) from error
        self.labels = tuple(labels)
        self.detections = detections
        self._places = {label.id: place for place, label in enumerate(self.labels, start=1)}  # class -> COCO category
        categories = [{"id": self._places[label.id], "name": label.name} for label in self.labels]
        rules = Params("segm")
        rules.max_dets = [detections]
        self._matches = StreamingEval(categories, "segm", params=rules)
        self._images = self._segments = 0

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        """Matches one image. Raises InputError where the sizes differ."""
        if annotation.size != result.size:
            raise InputError(
                f"expected a prediction of the annotation's size {annotation.size}, got {result.size}; "
                "do image and annotation have the same size?"
            )
        self._images += 1
        height, width = result.size
        image = {"id": self._images, "height": height, "width": width}
        self._matches.update([image], list(self._truth(annotation)), list(self._found(result)))

    def metrics(self) -> dict[str, float]:
        """Fractions; of areas, where there are instances of them. Raises InputError where there are none at all."""
        precision, recall = self._curves
        every = _mean(precision[..., 0])
        if every is None:
            raise InputError("AP: expected instances, got none: no image has a segment of a class that is a thing")
        figures = {
            "AP": every,
            "AP50": _mean(precision[FIRST_HALF, ..., 0]),
            "AP75": _mean(precision[THREE_QUARTERS, ..., 0]),
            **{f"AP{name}": _mean(precision[..., place]) for name, place in AREAS.items() if name},
            "AR": _mean(recall[..., 0]),
        }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """name -> AP and AP50, None for a class without instances."""
        precision, _ = self._curves
        return {
            label.name: {"AP": _mean(precision[:, :, k, 0]), "AP50": _mean(precision[FIRST_HALF, :, k, 0])}
            for k, label in enumerate(self.labels)
        }

    @functools.cached_property
    def _curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision [thresholds, recalls, K, areas] and greatest recall [thresholds, K, areas]; -1: no instances.

        Ends the counting: hotcoco gives its matches away, and `add` is an error from here on.
        """
        evaluation = self._matches.finalize()
        evaluation.accumulate()
        return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]

    def _truth(self, annotation: Annotation) -> Iterator[dict[str, Any]]:
        counts = run_lengths(annotation)
        for segment, label in enumerate(annotation.label_ids.tolist()):
            if label in self._places:
                self._segments += 1  # from 1: COCO's matching takes 0 for no match
                yield {
                    "id": self._segments,
                    "image_id": self._images,
                    "category_id": self._places[label],
                    "iscrowd": int(annotation.crowd[segment]),
                    "area": int(counts[segment][1::2].sum()),
                    "segmentation": {"size": list(annotation.size), "counts": counts[segment].tolist()},
                }

    def _found(self, result: Segmentation) -> Iterator[dict[str, Any]]:
        for segment in result.segments:
            if segment.label_id in self._places:
                yield {
                    "image_id": self._images,
                    "category_id": self._places[segment.label_id],
                    "score": segment.score,
                    "segmentation": segment.rle,
                }


def run_lengths(annotation: Annotation) -> list[np.ndarray]:
    """COCO's run lengths of every segment, as runtime/rle.py has them, from one pass over each plane."""
    height, width = annotation.size
    begins: list[list[np.ndarray]] = [[] for _ in range(len(annotation))]
    ends: list[list[np.ndarray]] = [[] for _ in range(len(annotation))]
    for plane in annotation.planes:
        values = plane.T.reshape(-1)  # [W*H]
        edges = np.flatnonzero(values[1:] != values[:-1]) + 1
        starts, stops = np.append(0, edges), np.append(edges, values.size)  # [runs]
        order = np.argsort(values[starts], kind="stable")  # runs of one segment together, in their order
        owners = values[starts][order]
        first = np.searchsorted(owners, np.arange(1, len(annotation) + 2))  # [n + 1]
        for segment in range(len(annotation)):
            runs = order[first[segment] : first[segment + 1]]
            begins[segment].append(starts[runs])
            ends[segment].append(stops[runs])
    total = height * width
    return [_counts(np.concatenate(b), np.concatenate(e), total) for b, e in zip(begins, ends, strict=True)]


def _counts(begins: np.ndarray, ends: np.ndarray, total: int) -> np.ndarray:
    order = np.argsort(begins, kind="stable")  # a segment may lie in more planes than one
    edges = np.stack([begins[order], ends[order]], axis=1).reshape(-1)
    if not edges.size or edges[-1] != total:
        edges = np.append(edges, total)
    return np.diff(edges, prepend=0)


def _mean(values: np.ndarray) -> float | None:
    """Over what there is: -1 stands for a class or area without instances."""
    there = values[values > -1]
    return float(there.mean()) if there.size else None
