"""Which classes are taken for which, the background that data of instances leave over, and data that do not fit."""

import dataclasses
import re

import numpy as np
import pytest
from evaluation_testing import BACKGROUND, NUCLEUS, Samples, annotation_of, labels_of

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.class_match import NOT_COUNTED, match_classes

ABC = labels_of("ab", "c")  # two things, one stuff


def matched(labels, data_labels, task):
    return match_classes(labels, Samples(data_labels, []), task)


def named(names, is_thing=None):
    return tuple(Label(i, name, is_thing, (0, 0, 0), i) for i, name in enumerate(names))


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_equal_names_in_order_are_the_same_classes(task):
    match = matched(ABC, ABC, task)
    assert match.model_class.tolist() == [0, 1, 2]
    assert match.counted == ABC
    segments = annotation_of(np.array([[1, 2, 0]]), [2, 0], crowd=[1])
    translated = match.translate(segments)
    assert translated.label_ids.tolist() == [2, 0]
    assert translated.planes is segments.planes
    assert translated.crowd.tolist() == [True, False]


def test_names_may_differ_in_case_and_punctuation():
    match = matched(named(["traffic light", "Bus"]), named(["Traffic_Light", "bus"]), "semantic")
    assert match.model_class.tolist() == [0, 1]


def test_instances_are_of_things_alone():
    match = matched(ABC, ABC, "instance")
    assert [label.name for label in match.counted] == ["a", "b"]
    assert match.translate(annotation_of(np.array([[1, 2]]), [2, 1])).label_ids.tolist() == [NOT_COUNTED, 1]


def test_a_model_without_stuff_is_measured_on_panoptic_data():
    assert [label.name for label in matched(labels_of("ab"), ABC, "instance").counted] == ["a", "b"]


def test_some_of_the_models_things_are_found_by_category_and_name():
    labels = labels_of("abcd", "s")
    some = tuple(dataclasses.replace(labels[k], id=i) for i, k in enumerate((1, 3)))
    match = matched(labels, some, "instance")
    assert match.model_class.tolist() == [1, 3]
    assert [label.name for label in match.counted] == ["b", "d"]


@pytest.mark.parametrize(("names", "background"), [(("nucleus", "background"), 1), (("Background", "nucleus"), 0)])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_what_instances_leave_over_is_the_models_background(names, background, task):
    labels = tuple(Label(i, name, name == "nucleus", (0, 0, 0), i) for i, name in enumerate(names))
    match = matched(labels, [NUCLEUS], task)
    segments = annotation_of(np.array([[0, 1, 1], [2, 2, 0]]), [0, 0], crowd=[2])
    translated = match.translate(segments)
    nucleus = 1 - background
    assert translated.label_ids.tolist() == [nucleus, nucleus, background]
    assert translated.planes.tolist() == [[[3, 1, 1], [2, 2, 3]]]
    assert translated.crowd.tolist() == [False, True, False]
    assert segments.planes.tolist() == [[[0, 1, 1], [2, 2, 0]]]  # data sets may share their arrays


def test_an_image_full_of_instances_has_no_background():
    match = matched([NUCLEUS, BACKGROUND], [NUCLEUS], "panoptic")
    assert match.translate(annotation_of(np.ones((2, 2)), [0])).label_ids.tolist() == [0]


def test_background_lies_where_no_plane_has_a_segment():
    match = matched([NUCLEUS, BACKGROUND], [NUCLEUS], "semantic")
    planes = np.array([[[1, 1, 0, 0]], [[0, 2, 2, 0]]], np.int32)
    translated = match.translate(Annotation(planes, np.array([0, 0]), np.array([False, False])))
    assert translated.mask(2).tolist() == [[False, False, False, True]]


BAD = [
    (ABC, labels_of("ab"), "semantic", "the model has 3 classes, the data 2"),
    (labels_of("ab", "cd"), labels_of("ab"), "panoptic", "the model has 4 classes, the data 2"),
    (ABC, labels_of("ba", "c"), "panoptic", "class 0 is 'a' in the model and 'b' in the data"),
    (ABC, labels_of("abd"), "instance", "the model has 2 classes, the data 3"),
    (ABC, labels_of("ax"), "instance", "class 1 is 'b' in the model and 'x' in the data"),
    (ABC, named("abc"), "instance", "--task instance: expected data that tell instances apart"),
    (ABC, named("abc"), "panoptic", "--task panoptic: expected data that tell instances apart"),
    (named(list("abcdef")), named(["a"]), "semantic", "in the model's classes (a, b, c, d, …)"),
]


@pytest.mark.parametrize(("labels", "data", "task", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_other_classes_are_refused(labels, data, task, message):
    with pytest.raises(InputError, match=re.escape(message)):
        matched(labels, data, task)
