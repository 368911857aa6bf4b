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
from collections.abc import Sequence

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.coco_rows import CocoRows

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
        self._rows = CocoRows(self.labels)
        rules = Params("segm")
        rules.max_dets = [detections]
        self._matches = StreamingEval(self._rows.categories, "segm", params=rules)

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        """Matches one image. Raises InputError where the sizes differ."""
        image, truth, found = self._rows.of(annotation, result)
        self._matches.update([image], truth, found)

    def metrics(self) -> dict[str, float]:
        """Fractions; of areas, where there are instances of them. Raises InputError where there are none at all."""
        precision, recall = self._curves
        every = mean_of(precision[..., 0])
        if every is None:
            raise InputError("AP: expected instances, got none: no image has a segment of a class that is a thing")
        figures = {
            "AP": every,
            "AP50": mean_of(precision[FIRST_HALF, ..., 0]),
            "AP75": mean_of(precision[THREE_QUARTERS, ..., 0]),
            **{f"AP{name}": mean_of(precision[..., place]) for name, place in AREAS.items() if name},
            "AR": mean_of(recall[..., 0]),
        }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """name -> AP and AP50, None for a class without instances."""
        precision, _ = self._curves
        return {
            label.name: {
                "AP": mean_of(precision[:, :, k, 0]),
                "AP50": mean_of(precision[FIRST_HALF, :, k, 0]),
            }
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


def mean_of(values: np.ndarray) -> float | None:
    """Over what there is: -1 stands for a class or area without instances."""
    there = values[values > -1]
    return float(there.mean()) if there.size else None
