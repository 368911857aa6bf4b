"""A data set with other classes: what a task needs of it, or several classes made one.

things = for_tasks(CocoPanoptic(root, "train"), ("instance",))       # things alone, numbered anew
classes = for_tasks(CocoPanoptic(root, "train"), ("semantic",))      # one segment for each class of an image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset


class Relabelled:
    """`data` with the classes `labels`: class c becomes `classes[c]`; segments of those that become -1 are left out.

    joined: bool for each new class; all segments of such a class in an image become one, crowds among them.
    """

    def __init__(self, data: Dataset, labels: Sequence[Label], classes: Sequence[int], joined: Sequence[bool]) -> None:
        self.data, self.root, self.split = data, data.root, data.split
        self.labels = tuple(labels)
        self.classes = np.array(classes, np.int64)  # [old K]
        self.joined = np.array(joined, bool)  # [new K]

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return self.data.name(index)

    def image(self, index: int) -> np.ndarray:
        return self.data.image(index)

    def annotation(self, index: int) -> Annotation:
        return self._changed(self.data.annotation(index))

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.data[index]
        return image, self._changed(annotation)

    def _changed(self, annotation: Annotation) -> Annotation:
        label_ids: list[int] = []
        crowd: list[bool] = []
        first: dict[int, int] = {}  # joined class -> its segment
        places = np.zeros(len(annotation) + 1, np.int32)  # old segment + 1 -> new segment + 1
        for segment, old in enumerate(annotation.label_ids):
            label_id = int(self.classes[old])
            if label_id < 0:
                continue
            if self.joined[label_id] and label_id in first:
                places[segment + 1] = first[label_id] + 1
                continue
            first[label_id] = len(label_ids)
            label_ids.append(label_id)
            crowd.append(bool(annotation.crowd[segment]) and not self.joined[label_id])
            places[segment + 1] = len(label_ids)
        return Annotation(places[annotation.planes], np.array(label_ids, np.int64), np.array(crowd, bool))


def for_tasks(data: Dataset, tasks: Sequence[str]) -> Dataset:
    """What a model for these tasks is trained on and measured by.

    panoptic: things and stuff as they are. instance alone: things. semantic alone: all segments of a class are one.
    instance and semantic: as panoptic, both follow from it. Raises InputError where the data cannot serve a task.
    """
    known = [label.is_thing is not None for label in data.labels]
    if set(tasks) - {"semantic"} and not all(known):
        raise InputError(
            f"{data.root}: the data has one class a pixel and no objects, which serves the task semantic; "
            f"got tasks {', '.join(tasks)}"
        )
    everything = range(len(data.labels))
    if set(tasks) == {"semantic"}:
        return data if not any(known) else Relabelled(data, data.labels, everything, [True] * len(data.labels))
    if set(tasks) == {"instance"}:
        things = [label for label in data.labels if label.is_thing]
        if not things:
            raise InputError(f"{data.root}: expected things for the task instance, got stuff alone")
        if len(things) == len(data.labels):
            return data
        place = {label.id: index for index, label in enumerate(things)}
        labels = [replace(label, id=index) for index, label in enumerate(things)]
        return Relabelled(data, labels, [place.get(label.id, -1) for label in data.labels], [False] * len(labels))
    return data
