"""Boundary AP: COCO's protocol, with the lesser of the masks' IoU and their boundaries' IoU as the overlap.

    precision = BoundaryAveragePrecision(things, detections=300)
    precision.add(annotation, result)      # once per image
    precision.metrics()                    # {"boundary_AP": 0.31, "boundary_AP50": 0.60, "boundary_AP75": 0.28}

A mask's boundary is what lies within 2 % of the image's diagonal of its outline. Of objects smaller than that all is
boundary, and the figure is AP. Cheng et al., "Boundary IoU", CVPR 2021, sec. 4 and 5. faster-coco-eval does the
matching when all images are there; until then their run lengths are kept: some 100 bytes an object.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mask2edge.runtime import rle
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.average_precision import FIRST_HALF, THREE_QUARTERS, mean_of
from mask2edge.train.evaluation.coco_rows import CocoRows, Row

DILATION = 0.02  # of the image's diagonal: the paper's choice for COCO


class BoundaryAveragePrecision:
    """`labels`: the classes that count; segments of others are passed over, true or predicted."""

    def __init__(self, labels: Sequence[Label], detections: int = 100) -> None:
        """Raises InputError where faster-coco-eval is not installed."""
        try:
            import faster_coco_eval  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"boundary AP: expected the package faster-coco-eval, which cannot be imported ({error}); "
                "pip install 'mask2edge[accuracy]'"
            ) from error
        self.detections = detections
        self._names = [label.name for label in labels]
        self._rows = CocoRows(labels)
        self._images: list[Row] = []
        self._truth: list[Row] = []
        self._found: list[Row] = []

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        """Keeps one image. Raises InputError where the sizes differ."""
        image, truth, found = self._rows.of(annotation, result)
        for row in truth:
            counts = rle.to_string(np.asarray(row["segmentation"]["counts"]))
            row["segmentation"] = {"size": row["segmentation"]["size"], "counts": counts}
        self._images.append(image)
        self._truth += truth
        self._found += found

    def metrics(self) -> dict[str, float]:
        """Fractions. Raises InputError where there are no instances at all."""
        figures = _figures(self._precision)
        if figures["boundary_AP"] is None:
            raise InputError("boundary AP: expected instances, got none: no image has a segment of a class of things")
        return {name: figure for name, figure in figures.items() if figure is not None}

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """name -> figures, None for a class without instances."""
        return {name: _figures(self._precision[:, :, k : k + 1]) for k, name in enumerate(self._names)}

    @functools.cached_property
    def _precision(self) -> np.ndarray:
        """[thresholds, recalls, K]; -1: no instances. Ends the counting: `add` has no effect from here on."""
        from faster_coco_eval import COCO, COCOeval_faster

        shape = (10, 101, len(self._names))
        if not self._truth or not self._found:  # faster-coco-eval wants both; without detections every precision is 0
            there = {row["category_id"] for row in self._truth if not row["iscrowd"]}
            has_truth = [category["id"] in there for category in self._rows.categories]  # [K]
            return np.broadcast_to(np.where(has_truth, 0.0, -1.0), shape)
        truth = COCO({"images": self._images, "annotations": self._truth, "categories": self._rows.categories})
        evaluation = COCOeval_faster(
            truth,
            truth.loadRes(self._found),
            "boundary",
            print_function=_silent,
            boundary_dilation_ratio=DILATION,
        )
        evaluation.params.maxDets = [self.detections]
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"][..., 0, 0]


def _figures(precision: np.ndarray) -> dict[str, float | None]:
    chosen = {"boundary_AP": slice(None), "boundary_AP50": FIRST_HALF, "boundary_AP75": THREE_QUARTERS}
    return {name: mean_of(precision[place]) for name, place in chosen.items()}


def _silent(*_: Any) -> None:
    """faster-coco-eval reports its progress otherwise."""
