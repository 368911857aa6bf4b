"""The format `coco-instances`: polygons and both kinds of RLE against pycocotools' own COCO, overlaps, and faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_folders import (
    INSTANCE_CATEGORIES,
    change_json,
    compressed,
    scene,
    uncompressed,
    write_coco_instances,
    write_image,
    write_json,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.coco_instances import CocoInstances, splits

JSON = "annotations/instances_train2017.json"


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "images", "annotations"])
def test_masks_are_those_of_pycocotools(tmp_path: Path, folder: str) -> None:
    data = CocoInstances(write_coco_instances(tmp_path, folder=folder), "train")
    assert (data.split, len(data)) == ("train2017", 3)
    assert [(label.name, label.is_thing, label.category_id) for label in data.labels] == [
        ("star", True, 2), ("box", True, 9)
    ]  # fmt: skip
    oracle = COCO(str(tmp_path / JSON))
    image, annotation = data[0]
    np.testing.assert_array_equal(image, scene()[0])
    assert annotation.label_ids.tolist() == [1, 0, 0, 1]
    assert annotation.crowd.tolist() == [False, False, False, True]
    for segment, row in enumerate(oracle.loadAnns(oracle.getAnnIds(imgIds=[0]))):
        np.testing.assert_array_equal(annotation.mask(segment), oracle.annToMask(row).astype(bool))
    assert (len(data.annotation(1)), data.annotation(1).size) == (0, (24, 32))
    assert len(data.annotation(2)) == 1


def test_overlapping_instances_lie_on_as_many_planes_as_overlap(tmp_path: Path) -> None:
    data = CocoInstances(write_coco_instances(tmp_path), "train")
    planes = data.annotation(0).planes
    assert planes.dtype == np.int32
    assert len(planes) == 2  # the first polygon and segment 2 (RLE) are covered by others, never three at a place
    assert len(data.annotation(2).planes) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 8))
def test_any_masks_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    root = tmp_path_factory.mktemp("any")
    generator = np.random.default_rng(seed)
    masks = [generator.random((11, 7)) < generator.random() for _ in range(count)]
    rows = [
        {"id": k, "image_id": 0, "category_id": 9, "segmentation": (compressed, uncompressed)[k % 2](mask)}
        for k, mask in enumerate(masks)
    ]
    write_image(root / "x/0.png", np.zeros((11, 7, 3), np.uint8))
    write_json(
        root / "annotations/instances_x.json",
        [{"id": 0, "file_name": "0.png", "height": 11, "width": 7}],
        rows,
        INSTANCE_CATEGORIES,
    )
    annotation = CocoInstances(root, "x").annotation(0)
    assert len(annotation) == count
    for segment, mask in enumerate(masks):
        np.testing.assert_array_equal(annotation.mask(segment), mask)


def test_one_json_file_or_one_beside_its_images(tmp_path: Path) -> None:
    write_coco_instances(tmp_path / "a", folder="images")
    path = (tmp_path / "a" / JSON).rename(tmp_path / "a/labels.json")
    assert splits(path) == ("labels",)
    data = CocoInstances(path, "labels")
    assert (data.split, len(data), data.root) == ("labels", 3, path)
    data[0]
    write_coco_instances(tmp_path / "b", folder="train")
    (tmp_path / "b" / JSON).rename(tmp_path / "b/train/_annotations.coco.json")
    assert splits(tmp_path / "b") == ("train",)
    data = CocoInstances(tmp_path / "b", "train")
    assert (data.split, data.name(0)) == ("train", "0.png")
    data[0]


def _no_image(root: Path) -> None:
    (root / "train2017/1.png").unlink()


def _unnamed(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: (rows[3].pop("id"), rows[3].update(category_id=5)))


def _unknown_image(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[0].update(image_id=99))


def _unknown_category(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[0].update(category_id=5))


def _boxes_alone(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[0].pop("segmentation"))


@pytest.mark.parametrize(
    ("damage", "message", "images", "instances"),
    [
        (_no_image, r"train2017/1\.png: missing", 2, 5),
        (_unknown_image, "annotation 50: image 99 is not among the images of the JSON", 3, 4),
        (_unknown_category, "annotation 50: category 5 is not among the categories", 3, 4),
        (_unnamed, r"annotation \[3\]: category 5 is not among the categories", 3, 4),
        (_boxes_alone, "annotation 50: no segmentation, which says where the object lies", 3, 4),
    ],
)
def test_what_is_missing_or_unknown_is_said_when_opened(
    tmp_path: Path, damage: Callable[[Path], None], message: str, images: int, instances: int
) -> None:
    damage(write_coco_instances(tmp_path))
    with pytest.raises(InputError, match=f"1 faults in .*; the first: .*{message}"):
        CocoInstances(tmp_path, "train")
    data = CocoInstances(tmp_path, "train", strict=False)
    assert len(data.faults) == 1
    assert (len(data), sum(len(data.instances(index)) for index in range(len(data)))) == (images, instances)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [5, 5], "counts": [10, 15]},  # of another size
        {"size": [24, 32], "counts": 7},
        {"size": [24, 32]},
        [[1.0, 2.0]],
        [[1.0, 2.0, 9.0, 9.0]],
        ["text"],
        "text",
    ],
    ids=str,
)
def test_a_mask_that_cannot_be_decoded_is_refused_by_name(tmp_path: Path, segmentation: Any) -> None:
    write_coco_instances(tmp_path)
    change_json(tmp_path / JSON, annotations=lambda rows: rows[1].update(segmentation=segmentation))
    data = CocoInstances(tmp_path, "train")
    with pytest.raises(InputError, match=r"instances_train2017\.json: annotation 51 of 0\.png: expected polygons or"):
        data.annotation(0)
    assert len(data.annotation(2)) == 1


def test_a_polygon_without_an_area_is_left_out(tmp_path: Path) -> None:
    write_coco_instances(tmp_path)
    expected = CocoInstances(tmp_path, "train").annotation(0)
    for place in (0, 2):  # of COCO's own polygons a few have two points
        change_json(
            tmp_path / JSON,
            annotations=lambda rows, place=place: rows[0]["segmentation"].insert(place, [1.0, 2.0, 30.0, 20.0]),
        )
    np.testing.assert_array_equal(CocoInstances(tmp_path, "train").annotation(0).planes, expected.planes)


def test_annotations_need_no_ids(tmp_path: Path) -> None:
    write_coco_instances(tmp_path)
    expected = CocoInstances(tmp_path, "train").annotation(0)
    change_json(tmp_path / JSON, annotations=lambda rows: [row.pop("id") for row in rows])
    annotation = CocoInstances(tmp_path, "train").annotation(0)
    np.testing.assert_array_equal(annotation.planes, expected.planes)
    change_json(tmp_path / JSON, annotations=lambda rows: rows[1].update(segmentation="text"))
    with pytest.raises(InputError, match=r"annotation \[1\] of 0\.png: expected polygons or an RLE"):
        CocoInstances(tmp_path, "train").annotation(0)


@pytest.mark.parametrize("row", [{"image_id": 0}, {"category_id": 9}, "text", None])
def test_an_annotation_without_image_or_category_is_refused_by_its_place(tmp_path: Path, row: Any) -> None:
    write_coco_instances(tmp_path)
    change_json(tmp_path / JSON, annotations=lambda rows: rows.insert(2, row))
    with pytest.raises(InputError, match=r"annotations\[2\]: expected an object with image_id, category_id and seg"):
        CocoInstances(tmp_path, "train")


def test_an_image_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    data = CocoInstances(write_coco_instances(tmp_path), "train")
    write_image(tmp_path / "train2017/2.png", np.zeros((20, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"instances_train2017\.json: a label map that does not fit: expected 20x32"):
        data[2]


def test_images_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    write_coco_instances(tmp_path, folder="elsewhere")
    with pytest.raises(InputError, match=r"its first image, 0\.png, is in none of .*train2017, .*images"):
        CocoInstances(tmp_path, "train")
    write_json(tmp_path / JSON, [{"id": 1}], [], INSTANCE_CATEGORIES)
    with pytest.raises(InputError, match="a field is missing: KeyError"):
        CocoInstances(tmp_path, "train")
