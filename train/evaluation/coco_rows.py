"""Annotations and results as COCO's evaluators want them: rows with ids, categories and run lengths.

    rows = CocoRows(things)
    image, truth, found = rows.of(annotation, result)

Images and segments are numbered from 1 in the order in which they come: COCO's matching takes 0 for no match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation

Row = dict[str, Any]


class CocoRows:
    """`labels`: the classes that count; segments of others are passed over, true or predicted."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._places = {label.id: place for place, label in enumerate(labels, start=1)}  # class -> COCO category
        self.categories = [{"id": self._places[label.id], "name": label.name} for label in labels]
        self._images = self._segments = 0

    def of(self, annotation: Annotation, result: Segmentation) -> tuple[Row, list[Row], list[Row]]:
        """The next image, its true segments and the predicted ones. Raises InputError where the sizes differ."""
        if annotation.size != result.size:
            raise InputError(
                f"expected a prediction of the annotation's size {annotation.size}, got {result.size}; "
                "do image and annotation have the same size?"
            )
        self._images += 1
        height, width = result.size
        image = {"id": self._images, "height": height, "width": width}
        return image, list(self._truth(annotation)), list(self._found(result))

    def _truth(self, annotation: Annotation) -> Iterator[Row]:
        counts = run_lengths(annotation)
        for segment, label in enumerate(annotation.label_ids.tolist()):
            if label in self._places:
                self._segments += 1
                yield {
                    "id": self._segments,
                    "image_id": self._images,
                    "category_id": self._places[label],
                    "iscrowd": int(annotation.crowd[segment]),
                    "area": int(counts[segment][1::2].sum()),
                    "segmentation": {"size": list(annotation.size), "counts": counts[segment].tolist()},
                }

    def _found(self, result: Segmentation) -> Iterator[Row]:
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
