"""train/inspect_data.py: counts against counts by hand, every kind of fault by name, and what a sheet shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_folders import (
    change_json,
    scene,
    write_coco_instances,
    write_coco_panoptic,
    write_image,
    write_instance_labels,
    write_semantic,
)

from mask2edge.train.data.contact_sheet import COLUMNS, contact_sheet, overlay
from mask2edge.train.data.formats import open_dataset
from mask2edge.train.inspect_data import main

JSON = "annotations/panoptic_train2017.json"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def inspected(capsys: pytest.CaptureFixture[str], root: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the JSON object, the last line on stderr)"""
    code = main([str(root), "--json", *more])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err.splitlines()[-1]


def test_a_sound_data_set_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_coco_panoptic(tmp_path / "coco")
    code, result, last = inspected(capsys, root)
    assert (code, result["faults"], result["format"], last) == (0, 0, "coco-panoptic", f"{root}: 3 images, no faults")
    split = result["splits"][0]
    assert (split["split"], split["images"], split["crowds"], split["faults"]) == ("train2017", 3, 3, [])
    assert split["sizes"] == [{"height": 24, "width": 32, "images": 3}]
    assert split["segments_per_image"] == {"mean": 3, "median": 3, "max": 3}  # without the crowd
    assert split["objects"] == {"small": 6, "medium": 0, "large": 0}
    segments = scene()[1]
    assert split["classes"] == [
        {"name": "car", "is_thing": True, "segments": 6, "images": 3, "pixel_share": np.isin(segments, [1, 2]).mean()},
        {"name": "dog", "is_thing": True, "segments": 0, "images": 3, "pixel_share": (segments == 3).mean()},
        {"name": "grass", "is_thing": False, "segments": 3, "images": 3, "pixel_share": (segments == 4).mean()},
    ]
    sheet = cv2.imread(split["sheet"])
    assert Path(split["sheet"]) == Path("artifacts/coco-train2017.jpg")
    assert sheet.std() > 10


def test_a_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_instance_labels(write_instance_labels(tmp_path / "cells"), "val", 2)
    assert main([str(root), "--classes", "cell", "rest", "--out", "sheet.png", "--tiles", "2", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert f"{root} train (instance-labels): 2 images" in out
    assert f"{root} val (instance-labels): 2 images" in out
    assert "sizes: 24x32 (2)" in out
    assert "segments an image: mean 5.0, median 5, at most 5; 0 crowds" in out
    assert "objects: 8 small (below 32² pixels), 0 medium (below 96²), 0 large" in out
    assert cv2.imread("sheet-train.png").shape == cv2.imread("sheet-val.png").shape
    assert main([str(root), "--split", "val", "--out", "sheet.png"]) == 0
    assert cv2.imread("sheet.png") is not None


def _no_png(root: Path) -> None:
    (root / "annotations/panoptic_train2017/001.png").unlink()


def _other_size(root: Path) -> None:
    write_image(root / "annotations/panoptic_train2017/001.png", np.zeros((20, 32, 3), np.uint8))


def _unknown_id(root: Path) -> None:
    path = str(root / "annotations/panoptic_train2017/001.png")
    ids = cv2.imread(path)
    ids[0, 0] = 0, 1, 2
    cv2.imwrite(path, ids)


def _unknown_category(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"][0].update(category_id=7))


def _other_area(root: Path) -> None:
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"][0].update(area=47))


def _empty_mask(root: Path) -> None:
    info = {"id": 5, "category_id": 3, "iscrowd": 0, "area": 3}
    change_json(root / JSON, annotations=lambda rows: rows[1]["segments_info"].append(info))


def _unreadable(root: Path) -> None:
    (root / "train2017/001.png").write_bytes(b"")


def _no_image(root: Path) -> None:
    (root / "train2017/001.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_png, "001.png: missing, the PNG of 001.png"),
        (_other_size, "001.png: a label map that does not fit: expected 24x32"),
        (_unknown_id, "001.png: segment id 258 is not in panoptic_train2017.json"),
        (_unknown_category, "001.png: category 7 is not among the categories"),
        (_other_area, "001.png: segment 70001 has 48 pixels, its stated area is 47"),
        (_empty_mask, "001.png: segment 5 is empty: no pixel of it"),
        (_unreadable, "001.png: expected an image, got 0 bytes"),
        (_no_image, "train2017/001.png: missing"),
    ],
)
def test_a_fault_is_named_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(write_coco_panoptic(tmp_path / "coco"))
    code, result, last = inspected(capsys, tmp_path / "coco")
    assert (code, result["faults"]) == (2, 1)
    assert message in result["splits"][0]["faults"][0]
    assert last.endswith(" images, 1 fault")
    assert main([str(tmp_path / "coco")]) == 2
    assert f"  fault: {result['splits'][0]['faults'][0]}" in capsys.readouterr().out


def test_a_class_list_that_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_semantic(tmp_path / "street")
    (root / "classes.txt").write_text("sky\nroad\n")
    code, result, _ = inspected(capsys, root)
    assert (code, result["faults"]) == (2, 3)
    assert "expected class indices 0 to 1 (2 classes)" in result["splits"][0]["faults"][0]


def test_a_class_list_that_is_one_name_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last index is the one that may mean "ignore"."""
    code, result, _ = inspected(capsys, write_semantic(tmp_path / "street"))
    (remark,) = result["splits"][0]["remarks"]
    assert (code, result["faults"]) == (0, 0)
    assert remark.startswith(
        "25.00 % of the pixels have the index 3, the first after the 3 classes, which is ignored; "
    )


def test_a_jpeg_with_damaged_data_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libjpeg makes a picture of it; only what it says on stderr tells that part of it is wrong."""
    root = write_semantic(tmp_path / "street")
    generator = np.random.default_rng(0)
    for index in range(3):
        path = root / f"train/00{index}.jpg"
        write_image(path, generator.integers(0, 256, (6, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)[:96, :128])
        write_image(root / f"trainannot/00{index}.png", np.zeros((96, 128), np.uint8))
        path.with_suffix(".png").unlink()
    path = root / "train/001.jpg"
    data = bytearray(path.read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    assert main([str(root), "--json"]) == 2
    captured = capfd.readouterr()
    (fault,) = json.loads(captured.out)["splits"][0]["faults"]
    assert fault.startswith("001.jpg: a picture is made of it, but Corrupt JPEG data: ")


def test_classes_of_a_format_that_has_its_own_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_semantic(tmp_path / "street")
    assert main([str(root), "--classes", "sky", "road"]) == 2
    assert "--classes: expected none, for " in capsys.readouterr().err


def test_images_without_a_segment_are_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = inspected(capsys, write_coco_instances(tmp_path / "coco"))
    assert (code, result["faults"]) == (0, 0)
    assert result["splits"][0]["remarks"] == ["1.png: no segment"]


def test_stated_areas_of_polygons_may_differ_by_their_outline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_coco_instances(tmp_path / "coco")
    box = {"area": 48 + 30, "bbox": [2, 2, 28, 20]}
    path = root / "annotations/instances_train2017.json"
    change_json(path, annotations=lambda rows: rows[0].update(**box))
    assert inspected(capsys, root)[0] == 0
    change_json(path, annotations=lambda rows: rows[0].update(area=300))
    code, result, _ = inspected(capsys, root)
    assert code == 2
    assert "0.png: segment 50 has " in result["splits"][0]["faults"][0]
    assert "its stated area is 300" in result["splits"][0]["faults"][0]


def test_areas_boxes_and_ids_may_be_missing_or_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_coco_instances(tmp_path / "coco")
    path = root / "annotations/instances_train2017.json"
    change_json(path, annotations=lambda rows: (rows[0].update(area=None, bbox=None), rows[0].pop("id")))
    assert inspected(capsys, root)[0] == 0
    change_json(path, annotations=lambda rows: rows[0].update(area=300))
    assert "0.png: segment [0] has " in inspected(capsys, root)[1]["splits"][0]["faults"][0]
    coco = write_coco_panoptic(tmp_path / "panoptic")
    change_json(coco / JSON, annotations=lambda rows: rows[1]["segments_info"][0].update(area=None))
    assert inspected(capsys, coco)[0] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "test"], "--split: {root} holds, as coco-panoptic, train2017; got 'test'"),
        (["--out", "sheet.gif"], "--out: expected the name of a .jpg or .png file, got sheet.gif"),
        (["--format", "semantic"], "--split: {root} holds, as semantic, no split; got None"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    root = write_coco_panoptic(tmp_path / "coco")
    assert main([str(root), *more]) == 2
    assert message.format(root=root) in capsys.readouterr().err.splitlines()[-1]


def test_the_overlay_colors_segments_and_nothing_else(tmp_path: Path) -> None:
    data = open_dataset(write_coco_panoptic(tmp_path), "train")
    image, annotation = data[0]
    shown = overlay(image, annotation, data.labels)
    changed = (shown != image).any(-1)
    np.testing.assert_array_equal(changed, scene()[1] > 0)
    first, second = (shown[scene()[1] == k] for k in (1, 2))
    assert tuple(first[0]) != tuple(second[0])  # two things of one class, two colours
    np.testing.assert_array_equal(image, scene()[0])  # the input is untouched


def test_the_sheet_has_a_tile_for_every_image_and_says_what_cannot_be_read(tmp_path: Path) -> None:
    data = open_dataset(write_instance_labels(tmp_path, count=5), "train")
    one = contact_sheet(data, [0])
    many = contact_sheet(data, range(5))
    assert many.shape == (2 * one.shape[0], COLUMNS * one.shape[1], 3)
    np.testing.assert_array_equal(many[: one.shape[0], : one.shape[1]], one)
    data.pairs[0][0].write_bytes(b"")
    unreadable = contact_sheet(data, [0])
    assert unreadable.shape == one.shape
    assert (unreadable != one).any()
