"""Class tables against the shared facts and against what is known of each data set."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.runtime.command_line import InputError
from mask2edge.train.labels import TABLES, distinct_color, labels_from_names, load_labels

FACTS = Path(__file__).resolve().parents[2].parent / "shared/data/labels"

# table -> classes, things, first and last name, first and last category id
KNOWN = {
    "coco-panoptic": (133, 80, "person", "rug-merged", 1, 200),
    "coco-instance": (80, 80, "person", "toothbrush", 1, 90),
    "ade20k": (150, 0, "wall", "flag", 0, 149),
    "ade20k-panoptic": (150, 100, "wall", "flag", 0, 149),
    "ade20k-instance": (100, 100, "bed", "flag", 7, 149),
    "cityscapes": (19, 8, "road", "bicycle", 7, 33),
    "cityscapes-instance": (8, 8, "person", "bicycle", 24, 33),
    "mapillary": (65, 37, "Bird", "Ego Vehicle", 1, 65),
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_of_each_table(name):
    labels = load_labels(name)
    classes, things, first, last, first_id, last_id = KNOWN[name]
    assert len(labels) == classes
    assert [label.id for label in labels] == list(range(classes))
    assert sum(bool(label.is_thing) for label in labels) == things
    assert (labels[0].name, labels[-1].name) == (first, last)
    assert (labels[0].category_id, labels[-1].category_id) == (first_id, last_id)
    assert len({label.category_id for label in labels}) == classes


def test_labels_of_semantic_data_do_not_claim_things():
    assert {label.is_thing for label in load_labels("ade20k")} == {None}


@pytest.mark.parametrize(
    ("file", "table"),
    [("coco_panoptic", "coco-panoptic"), ("ade20k", "ade20k-panoptic"), ("mapillary_vistas", "mapillary")],
)
def test_labels_are_the_shared_facts(file, table):
    path = FACTS / f"{file}.json"
    if not path.is_file():
        pytest.skip("../shared/data/labels is not here")
    for label, fact in zip(load_labels(table), json.loads(path.read_text()), strict=True):
        assert (label.id, label.name, label.is_thing, label.category_id) == (
            fact["id"], fact["name"], fact["is_thing"], fact["category_id"],
        )  # fmt: skip
        assert fact["color"] is None or label.color == tuple(fact["color"])


def test_labels_generated_colors_are_distinct():
    colors = [distinct_color(i) for i in range(133)]
    assert min(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for a, b in itertools.combinations(colors, 2)) > 400


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20))
def test_labels_from_any_names(names):
    labels = labels_from_names(names)
    assert [label.name for label in labels] == names
    assert [(label.id, label.category_id) for label in labels] == [(i, i) for i in range(len(names))]
    assert all(0 <= part <= 255 for label in labels for part in label.color)
    assert labels == labels_from_names(names)


def test_labels_from_names_with_things(tmp_path):
    assert [label.is_thing for label in labels_from_names(["a", "b"], [True, False])] == [True, False]
    with pytest.raises(InputError, match="is_thing for each of 2 names, got 1"):
        labels_from_names(["a", "b"], [True])


def test_labels_of_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["cat", {"name": "dog", "is_thing": True, "color": [1, 2, 3], "category_id": 9}]))
    cat, dog = load_labels(path)
    assert (cat.name, cat.is_thing, cat.category_id) == ("cat", None, 0)
    assert (dog.id, dog.is_thing, dog.color, dog.category_id) == (1, True, (1, 2, 3), 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON list of labels"),
        ("[" * 100_000, "expected a JSON list of labels"),
        ("{}", "expected a JSON list of names"),
        ("[]", "expected a JSON list of names"),
        ("[3]", "label 0: expected a name or an object"),
        ('[{"id": 0}]', "label 0: expected a name, got None"),
        ('["a", {"name": "b", "id": 5}]', "label 1: expected id 1"),
        ('[{"name": "a", "colour": [0, 0, 0]}]', "unknown key colour"),
        ('[{"name": "a", "color": [0, 0, 256]}]', "expected a colour"),
        ('[{"name": "a", "color": "red"}]', "expected a colour"),
        ('[{"name": "a", "is_thing": 1}]', "is_thing true, false or null"),
        ('[{"name": "a", "category_id": "x"}]', "whole number as category_id"),
    ],
)
def test_labels_of_a_bad_file(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_labels(path)


def test_labels_of_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="one of coco-panoptic, coco-instance"):
        load_labels("coco")
