"""What tasks need of a data set, and merged classes: pixel by pixel against the data set before."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from data_folders import scene, write_coco_panoptic, write_instance_labels, write_semantic

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import semantic_map
from mask2edge.train.data.class_merging import merged, read_merge_table
from mask2edge.train.data.coco_panoptic import CocoPanoptic
from mask2edge.train.data.instance_labels import InstanceLabels
from mask2edge.train.data.relabelled import for_tasks
from mask2edge.train.data.semantic_folder import SemanticFolder


@pytest.fixture
def panoptic(tmp_path: Path) -> CocoPanoptic:
    """Classes car, dog, grass; segments: two cars, a crowd of dogs, grass. See data_folders.scene."""
    return CocoPanoptic(write_coco_panoptic(tmp_path / "panoptic"), "train")


@pytest.fixture
def semantic(tmp_path: Path) -> SemanticFolder:
    return SemanticFolder(write_semantic(tmp_path / "semantic"), "train")


@pytest.mark.parametrize("tasks", [("panoptic",), ("panoptic", "instance", "semantic"), ("instance", "semantic")])
def test_panoptic_training_takes_things_and_stuff_as_they_are(panoptic: CocoPanoptic, tasks: tuple[str, ...]) -> None:
    assert for_tasks(panoptic, tasks) is panoptic


def test_instance_training_takes_things_alone(panoptic: CocoPanoptic) -> None:
    data = for_tasks(panoptic, ("instance",))
    assert [(label.id, label.name, label.category_id) for label in data.labels] == [(0, "car", 3), (1, "dog", 18)]
    image, annotation = data[1]
    np.testing.assert_array_equal(image, scene()[0])
    assert annotation.label_ids.tolist() == [0, 0, 1]
    assert annotation.crowd.tolist() == [False, False, True]
    for segment in range(3):
        np.testing.assert_array_equal(annotation.mask(segment), scene()[1] == segment + 1)
    assert not annotation.planes[:, scene()[1] == 4].any()
    assert (len(data), data.name(1), data.split) == (3, "001.png", "train2017")


def test_semantic_training_takes_one_segment_a_class(panoptic: CocoPanoptic) -> None:
    data = for_tasks(panoptic, ("semantic",))
    assert data.labels == panoptic.labels
    annotation = data.annotation(0)
    assert annotation.label_ids.tolist() == [0, 1, 2]
    assert not annotation.crowd.any()  # a crowd's pixels have a class like others
    np.testing.assert_array_equal(annotation.mask(0), np.isin(scene()[1], [1, 2]))
    np.testing.assert_array_equal(semantic_map(annotation, 255), semantic_map(panoptic.annotation(0), 255))


def test_data_of_one_kind_stay_as_they_are(tmp_path: Path, semantic: SemanticFolder) -> None:
    assert for_tasks(semantic, ("semantic",)) is semantic
    cells = InstanceLabels(write_instance_labels(tmp_path), "train")
    assert for_tasks(cells, ("instance",)) is cells


@pytest.mark.parametrize("tasks", [("instance",), ("panoptic", "semantic")])
def test_classes_alone_serve_no_task_of_objects(semantic: SemanticFolder, tasks: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"one class a pixel and no objects, which serves the task semantic; got"):
        for_tasks(semantic, tasks)


def test_merged_things_stay_apart(panoptic: CocoPanoptic) -> None:
    data = merged(panoptic, {"moving": ["dog", "car"]})
    assert [(label.id, label.name, label.is_thing, label.category_id) for label in data.labels] == [
        (0, "moving", True, 3), (1, "grass", False, 100)
    ]  # fmt: skip
    annotation = data.annotation(0)
    assert annotation.label_ids.tolist() == [0, 0, 0, 1]
    assert annotation.crowd.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(annotation.planes, panoptic.annotation(0).planes)


def test_merged_classes_of_a_label_map_become_one_segment(semantic: SemanticFolder) -> None:
    data = merged(semantic, {"ground": ["car", "road"]})
    assert [label.name for label in data.labels] == ["sky", "ground"]
    before = semantic_map(semantic.annotation(0), 255)
    annotation = data.annotation(0)
    assert annotation.label_ids.tolist() == [0, 1]
    np.testing.assert_array_equal(
        semantic_map(annotation, 255), np.select([before == 0, (before == 1) | (before == 2)], [0, 1], 255)
    )


def test_ignored_classes_have_no_segment(panoptic: CocoPanoptic) -> None:
    data = merged(panoptic, {"ignore": ["car"]})
    assert [label.name for label in data.labels] == ["dog", "grass"]
    annotation = data.annotation(0)
    assert annotation.label_ids.tolist() == [0, 1]
    assert not annotation.planes[:, np.isin(scene()[1], [1, 2])].any()


def test_merging_and_tasks_follow_each_other(panoptic: CocoPanoptic) -> None:
    data = for_tasks(merged(panoptic, {"moving": ["dog", "car"]}), ("semantic",))
    annotation = data.annotation(0)
    assert annotation.label_ids.tolist() == [0, 1]
    np.testing.assert_array_equal(annotation.mask(0), np.isin(scene()[1], [1, 2, 3]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": ["cat"]}, r"data\.merge\.x: .* has no class 'cat'; nearest: car"),
        ({"x": ["car"], "y": ["car"]}, "'car' is under 'x' and 'y'; name it once"),
        ({"car": ["car", "dog"], "y": ["car"]}, "'car' is under 'car' and 'y'; name it once"),
        ({"x": ["car", "grass"]}, r"data\.merge\.x: expected things alone or stuff alone, got both \(grass\)"),
        ({"grass": ["car"]}, r"expected the classes that become 'grass', with itself where it is one of them"),
        ({"x": []}, r"data\.merge\.x: expected the classes that become 'x'"),
        ({"ignore": ["car", "dog", "grass"]}, "every class is ignored"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    panoptic: CocoPanoptic, table: Mapping[str, Sequence[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        merged(panoptic, table)


def test_a_table_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "merge.json"
    path.write_text(json.dumps({"a": ["b", "c"]}))
    assert read_merge_table(path) == {"a": ["b", "c"]}
    for text in ("[", '["a"]', '{"a": "b"}', '{"a": [1]}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"merge\.json: expected a JSON object such as"):
            read_merge_table(path)
    with pytest.raises(InputError, match="expected a JSON object such as"):
        read_merge_table(tmp_path / "none.json")


def test_a_table_can_be_that_of_a_training(tmp_path: Path) -> None:
    """In its file, in its base, or in a file of its own."""
    (tmp_path / "base.toml").write_text('[data.merge]\na = ["b", "c"]\n')
    (tmp_path / "over.toml").write_text(f'base = "{tmp_path / "base.toml"}"\n[train]\nsteps = 5\n')
    (tmp_path / "merge.json").write_text('{"a": ["b", "c"]}')
    (tmp_path / "named.toml").write_text(f'[data]\nmerge_file = "{tmp_path / "merge.json"}"\n')
    for name in ("base", "over", "named"):
        assert read_merge_table(tmp_path / f"{name}.toml") == {"a": ["b", "c"]}
    (tmp_path / "none.toml").write_text("")
    with pytest.raises(InputError, match=r"none\.toml: expected a table \[data\.merge\].*; got neither"):
        read_merge_table(tmp_path / "none.toml")
