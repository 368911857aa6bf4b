"""One task's figures over a data set, whatever the task: what accuracy.py and the validation of training both use.

    evaluation = TaskEvaluation("panoptic", spec.labels, data, detections=100)
    for index in range(len(data)):
        image, annotation = data[index]
        evaluation.add(annotation, result_of(image))
    evaluation.metrics()["PQ"]

Images are counted one at a time and forgotten, so that memory does not grow with the data set's masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset, semantic_map
from mask2edge.train.evaluation.average_precision import AveragePrecision
from mask2edge.train.evaluation.boundary_average_precision import BoundaryAveragePrecision
from mask2edge.train.evaluation.class_match import ClassMatch, match_classes
from mask2edge.train.evaluation.confusion_matrix import ConfusionMatrix
from mask2edge.train.evaluation.panoptic_quality import PanopticQuality

HEADLINE = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU"}  # task -> the figure that stands for it
NO_CLASS = -1  # in label maps: pixels without a segment, which count nowhere


class _Counter(Protocol):
    def add(self, annotation: Annotation, result: Segmentation) -> None: ...
    def metrics(self) -> dict[str, float]: ...
    def per_class(self) -> dict[str, dict[str, float | None]]: ...


class TaskEvaluation:
    """detections: of instances, the most that count of each class and image; boundary: their boundary AP too."""

    def __init__(
        self, task: str, labels: Sequence[Label], data: Dataset, detections: int, boundary: bool = False
    ) -> None:
        """`labels`: the model's. Raises InputError where the data are not labelled in them, as the task needs it."""
        self.task = task
        self._match = match_classes(labels, data, task)
        self._counter = _counter(task, self._match, detections, boundary)

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        """Counts one image: the data's annotation and the model's result for this task. Raises InputError."""
        self._counter.add(self._match.translate(annotation), result)

    def metrics(self) -> dict[str, float]:
        """Fractions, HEADLINE[task] among them. Raises InputError where the data have nothing to count."""
        return self._counter.metrics()

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """class name -> figures, None where the class does not occur."""
        return self._counter.per_class()


class _Semantic:
    def __init__(self, labels: Sequence[Label]) -> None:
        self._matrix, self._names = ConfusionMatrix(len(labels)), [label.name for label in labels]

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        self._matrix.add(semantic_map(annotation, NO_CLASS), result.label_map, NO_CLASS)

    def metrics(self) -> dict[str, float]:
        return self._matrix.metrics()

    def per_class(self) -> dict[str, dict[str, float | None]]:
        return self._matrix.per_class(self._names)


class _InstancesAndBoundaries:
    """Both precisions' figures; AP comes first."""

    def __init__(self, labels: Sequence[Label], detections: int) -> None:
        self._counters = AveragePrecision(labels, detections), BoundaryAveragePrecision(labels, detections)

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        for counter in self._counters:
            counter.add(annotation, result)

    def metrics(self) -> dict[str, float]:
        masks, boundaries = self._counters
        return masks.metrics() | boundaries.metrics()

    def per_class(self) -> dict[str, dict[str, float | None]]:
        masks, boundaries = (counter.per_class() for counter in self._counters)
        return {name: row | boundaries[name] for name, row in masks.items()}


def _counter(task: str, match: ClassMatch, detections: int, boundary: bool) -> _Counter:
    if task == "semantic":
        return _Semantic(match.counted)
    if task == "panoptic":
        return PanopticQuality(match.counted)
    return (_InstancesAndBoundaries if boundary else AveragePrecision)(match.counted, detections)
