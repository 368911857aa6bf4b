"""Which class of a model a class of a data set is, and annotations in the model's classes.

    match = match_classes(spec.labels, data, "panoptic")     # or an error that names the first difference
    match.translate(annotation)

Classes are the same where their names are, in the same order: an index means no more. Two things go beyond that. Data
with some of a model's things (a COCO file of five categories) are found by category id and name, for instances. And
where the data's things are the model's, whose only stuff is called background, pixels without an instance are that:
data of instances cannot say it themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset

NOT_COUNTED = -1


@dataclass(frozen=True, eq=False)
class ClassMatch:
    """model_class: int64 [classes of the data], the model's class or NOT_COUNTED; counted: the model's labels that
    figures are about; background: the model's class of pixels without a segment, where there is one."""

    model_class: np.ndarray
    counted: tuple[Label, ...]
    background: int | None = None

    def translate(self, annotation: Annotation) -> Annotation:
        """The same segments in the model's classes, and the background as one more."""
        labels = self.model_class[annotation.label_ids]  # [n]
        if self.background is None:
            return Annotation(annotation.planes, labels, annotation.crowd)
        rest = ~(annotation.planes > 0).any(0)  # [H, W]
        planes = annotation.planes.copy()  # [P, H, W]
        if rest.any():
            planes[0][rest] = len(labels) + 1
            labels = np.append(labels, self.background)  # [n + 1]
        return Annotation(planes, labels, np.append(annotation.crowd, False)[: len(labels)])


def match_classes(labels: Sequence[Label], data: Dataset, task: str) -> ClassMatch:
    """Raises InputError where the data are labelled in other classes, or, for instances, know none."""
    if task != "semantic" and not any(label.is_thing for label in data.labels):
        raise InputError(
            f"{data.root}: --task {task}: expected data that tell instances apart, got labels without a thing; "
            "use such data, or --task semantic"
        )
    if task == "instance":
        return _match_things(labels, data)
    if _names(labels) == _names(data.labels):
        return ClassMatch(np.arange(len(labels)), tuple(labels))
    things = [label for label in labels if label.is_thing]
    rest = [label for label in labels if label.is_thing is False]
    all_things = all(label.is_thing for label in data.labels)
    if _names(rest) == ["background"] and _names(things) == _names(data.labels) and all_things:
        return ClassMatch(np.array([label.id for label in things]), tuple(labels), background=rest[0].id)
    raise _differ(labels, data.labels, data)


def _match_things(labels: Sequence[Label], data: Dataset) -> ClassMatch:
    theirs = [label for label in data.labels if label.is_thing]
    ours = [label for label in labels if label.is_thing is not False]
    by_category = {(label.category_id, _plain(label.name)): label for label in ours}
    if _names(ours) == _names(theirs):
        pairs = list(zip(theirs, ours, strict=True))
    elif all((label.category_id, _plain(label.name)) in by_category for label in theirs):
        pairs = [(label, by_category[label.category_id, _plain(label.name)]) for label in theirs]
    else:
        raise _differ(ours, theirs, data)
    model_class = np.full(len(data.labels), NOT_COUNTED)  # [classes of the data]
    for their, our in pairs:
        model_class[their.id] = our.id
    return ClassMatch(model_class, tuple(our for _, our in pairs))


def _differ(ours: Sequence[Label], theirs: Sequence[Label], data: Dataset) -> InputError:
    advice = "use data of the same classes, or a model trained on these"
    if len(ours) != len(theirs):
        difference = f"the model has {len(ours)} classes, the data {len(theirs)}"
        advice += "; where it was trained with merged classes, name the table (accuracy.py --merge)"
    else:
        pairs = enumerate(zip(ours, theirs, strict=True))
        place = next(i for i, (our, their) in pairs if _plain(our.name) != _plain(their.name))
        difference = f"class {place} is {ours[place].name!r} in the model and {theirs[place].name!r} in the data"
    first = ", ".join(label.name for label in ours[:4]) + (", …" if len(ours) > 4 else "")
    return InputError(f"{data.root}: expected labels in the model's classes ({first}); {difference}; {advice}")


def _names(labels: Sequence[Label]) -> list[str]:
    return [_plain(label.name) for label in labels]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())  # "traffic light" is "Traffic_Light"
