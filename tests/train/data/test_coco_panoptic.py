"""The format `coco-panoptic` against panopticapi's own decoding, and what is wrong by name."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_folders import CATEGORIES, change_json, scene, write_coco_panoptic, write_image

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.coco_panoptic import CocoPanoptic, splits
from mask2edge.train.labels import distinct_color, load_labels

COCO = Path(__file__).resolve().parents[3].parent / "shared/data/coco_panoptic_mini"
JSON = "annotations/panoptic_train2017.json"


@pytest.mark.parametrize("nested", [False, True])
def test_segments_are_read_with_class_and_crowd(tmp_path: Path, nested: bool) -> None:
    data = CocoPanoptic(write_coco_panoptic(tmp_path, nested=nested), "train")
    assert (data.split, len(data), data.name(2)) == ("train2017", 3, "002.png")
    assert [(label.id, label.name, label.is_thing, label.category_id) for label in data.labels] == [
        (0, "car", True, 3), (1, "dog", True, 18), (2, "grass", False, 100)
    ]  # fmt: skip
    assert data.labels[1].color == (9, 8, 7)
    for index in range(3):
        image, annotation = data[index]
        np.testing.assert_array_equal(image, scene()[0])
        assert annotation.label_ids.tolist() == [0, 0, 1, 2]
        assert annotation.crowd.tolist() == [False, False, True, False]
        np.testing.assert_array_equal(annotation.planes, scene()[1][None])


@pytest.mark.parametrize("color", ["#e1d0a3", [1, 2, 3, 255], [0.5, 0.5, 0.5], [1, 2, 256], [True, 0, 0], 7, None])
def test_a_colour_of_another_kind_is_replaced_and_the_label_can_be_written(tmp_path: Path, color: Any) -> None:
    write_coco_panoptic(tmp_path)
    change_json(tmp_path / JSON, categories=lambda rows: rows[0].update(color=color))
    labels = CocoPanoptic(tmp_path, "train").labels
    assert (labels[1].name, labels[1].color) == ("dog", distinct_color(1))
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([dataclasses.asdict(label) for label in labels]))
    assert load_labels(path) == labels


def test_a_segment_that_no_pixel_has_stays_empty(tmp_path: Path) -> None:
    write_coco_panoptic(tmp_path)
    info = {"id": 5, "category_id": 3, "iscrowd": 0, "area": 0}
    change_json(tmp_path / JSON, annotations=lambda rows: rows[0]["segments_info"].insert(1, info))
    annotation = CocoPanoptic(tmp_path, "train").annotation(0)
    assert annotation.label_ids.tolist() == [0, 0, 0, 1, 2]
    assert [bool(annotation.mask(k).any()) for k in range(5)] == [True, False, True, True, True]


def test_an_image_without_segments_is_fine(tmp_path: Path) -> None:
    write_coco_panoptic(tmp_path)
    change_json(tmp_path / JSON, annotations=lambda rows: rows[0].update(segments_info=[]))
    write_image(tmp_path / "annotations/panoptic_train2017/000.png", np.zeros((24, 32, 3), np.uint8))
    annotation = CocoPanoptic(tmp_path, "train").annotation(0)
    assert (len(annotation), annotation.size) == (0, (24, 32))
    assert not annotation.planes.any()


def test_splits(tmp_path: Path) -> None:
    write_coco_panoptic(write_coco_panoptic(tmp_path), "val2017", 1)
    assert splits(tmp_path) == ("train2017", "val2017")
    with pytest.raises(InputError, match=r"expected annotations/panoptic_test\.json; found splits train2017, val2017"):
        CocoPanoptic(tmp_path, "test")


def _no_png(root: Path) -> None:
    (root / "annotations/panoptic_train2017/001.png").unlink()


def _no_image(root: Path) -> None:
    (root / "train2017/001.png").unlink()


def _no_annotation(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows.pop(1))


def _unknown_category(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"][0].update(category_id=77))


def _class_list_too_short(root: Path) -> None:
    change_json(root / JSON, categories=lambda rows: rows.pop(0))


LEFT_OUT: list[tuple[Callable[[Path], None], str, int]] = [
    (_no_png, r"001\.png: missing, the PNG of 001\.png", 1),
    (_no_image, r"train2017/001\.png: missing", 1),
    (_no_annotation, r"001\.png: no annotation in panoptic_train2017\.json", 1),
    (_unknown_category, r"001\.png: category 77 is not among the categories of panoptic_train2017\.json", 1),
    (_class_list_too_short, r"000\.png: category 18 is not among the categories", 3),
]


@pytest.mark.parametrize(("damage", "message", "count"), LEFT_OUT)
def test_what_is_missing_or_unknown_is_said_when_opened(
    tmp_path: Path, damage: Callable[[Path], None], message: str, count: int
) -> None:
    damage(write_coco_panoptic(tmp_path))
    with pytest.raises(InputError, match=f"{count} faults in .*; the first: .*{message}"):
        CocoPanoptic(tmp_path, "train")
    if count < 3:
        data = CocoPanoptic(tmp_path, "train", strict=False)
        assert [data.name(index) for index in range(len(data))] == ["000.png", "002.png"]
        assert len(data.faults) == 1
    else:
        with pytest.raises(InputError, match="no image of it can be used"):
            CocoPanoptic(tmp_path, "train", strict=False)


def _remove_json_key(root: Path) -> None:
    (root / JSON).write_text('{"images": [{}], "annotations": []}')


def _damage_json(root: Path) -> None:
    (root / JSON).write_text('{"images": [')


def _no_images(root: Path) -> None:
    change_json(root / JSON, images=lambda rows: rows.clear())


def _field_missing(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[0].pop("segments_info"))


def _segment_without_id(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"][0].pop("id"))


def _segment_with_a_word_as_id(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"][0].update(id="a"))


def _category_without_isthing(root: Path) -> None:
    change_json(root / JSON, categories=lambda rows: rows[0].pop("isthing"))


def _category_twice(root: Path) -> None:
    change_json(root / JSON, categories=lambda rows: rows[0].update(id=3))


def _no_map_folder(root: Path) -> None:
    (root / "annotations/panoptic_train2017").rename(root / "annotations/pngs")


def _no_image_folder(root: Path) -> None:
    (root / "train2017").rename(root / "pictures")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_json_key, "expected COCO's format with a list 'categories'"),
        (_damage_json, "expected a JSON file in COCO's format, got"),
        (_no_images, "expected images, got an empty list"),
        (_field_missing, "a field is missing: 'segments_info'"),
        (_segment_without_id, r"annotation of image 11: expected segments, each with a whole number as its id"),
        (_segment_with_a_word_as_id, r"annotation of image 11: expected segments, each with a whole number as its id"),
        (_category_without_isthing, "expected categories with id, name, isthing; got KeyError"),
        (_category_twice, "each with an id of its own"),
        (_no_map_folder, r"panoptic_train2017: missing; expected the PNG files"),
        (_no_image_folder, r"expected the images in train2017/ or images/train2017/, found neither"),
    ],
)
def test_a_damaged_data_set_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write_coco_panoptic(tmp_path))
    with pytest.raises(InputError, match=message):
        CocoPanoptic(tmp_path, "train", strict=False)


@pytest.mark.parametrize("number", [1, 70_001 * 100, 2**24 - 1])
def test_an_id_that_the_json_does_not_have_is_refused_by_name(tmp_path: Path, number: int) -> None:
    data = CocoPanoptic(write_coco_panoptic(tmp_path), "train")
    path = tmp_path / "annotations/panoptic_train2017/001.png"
    ids = cv2.imread(str(path))
    ids[5, 5] = number // 65536, number // 256 % 256, number % 256
    cv2.imwrite(str(path), ids)
    with pytest.raises(InputError, match=rf"001\.png: segment id {number} is not in panoptic_train2017\.json"):
        data[1]


def test_a_png_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    data = CocoPanoptic(write_coco_panoptic(tmp_path), "train")
    write_image(tmp_path / "annotations/panoptic_train2017/001.png", np.zeros((24, 31, 3), np.uint8))
    with pytest.raises(InputError, match=r"001\.png: a label map that does not fit: expected 24x32 .*, got 24x31"):
        data[1]


def test_coco_itself_as_panopticapi_reads_it() -> None:
    if not COCO.is_dir():
        pytest.skip(f"needs the data set in {COCO}")
    rgb2id = pytest.importorskip("panopticapi.utils", reason="the oracle: pip install panopticapi-lite").rgb2id
    data = CocoPanoptic(COCO, "val")
    assert len(data) == 40
    table = load_labels("coco-panoptic")
    assert [(label.name, label.is_thing, label.category_id) for label in data.labels] == [
        (label.name, label.is_thing, label.category_id) for label in table
    ]
    for index in range(0, 40, 7):
        image, annotation = data[index]
        assert image.shape[:2] == annotation.size
        png = cv2.imread(str(COCO / "annotations/panoptic_val2017" / data.entries[index][1]))[:, :, ::-1]
        ids = rgb2id(np.ascontiguousarray(png))
        for segment, info in enumerate(data.segments_info(index)):
            mask = annotation.mask(segment)
            np.testing.assert_array_equal(mask, ids == info["id"])
            assert mask.sum() == info["area"]
            assert data.labels[annotation.label_ids[segment]].category_id == info["category_id"]
            assert annotation.crowd[segment] == info["iscrowd"]


def test_the_written_categories_are_out_of_order() -> None:
    assert [row["id"] for row in CATEGORIES] != sorted(row["id"] for row in CATEGORIES)  # so that reading sorts
