"""Formats are recognised, splits are found, and what a folder is not is said in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data_folders import write_coco_instances, write_coco_panoptic, write_instance_labels, write_semantic

from mask2edge.runtime.command_line import InputError
from mask2edge.train.config import DATA_FORMATS
from mask2edge.train.data.formats import FORMATS, default_split, open_dataset, recognise, splits


def _semantic(root: Path) -> Path:
    return write_semantic(write_semantic(root), "val")


def _nested(root: Path) -> Path:
    return write_semantic(root, "val", nested=True)


def _instances(root: Path) -> Path:
    return write_coco_instances(root, "val2017", "val2017")


def _both_of_coco(root: Path) -> Path:
    return _instances(write_coco_panoptic(root, "val2017"))


def _cells(root: Path) -> Path:
    return write_instance_labels(write_instance_labels(root), "val")


CASES: list[tuple[Callable[[Path], Path], str, tuple[str, ...]]] = [
    (_semantic, "semantic", ("train", "val")),
    (_nested, "semantic", ("val",)),
    (write_coco_panoptic, "coco-panoptic", ("train2017",)),
    (_instances, "coco-instances", ("val2017",)),
    (_both_of_coco, "coco-panoptic", ("val2017",)),
    (_cells, "instance-labels", ("train", "val")),
]


@pytest.mark.parametrize(("write", "kind", "found"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_a_format_is_recognised(
    tmp_path: Path, write: Callable[[Path], Path], kind: str, found: tuple[str, ...]
) -> None:
    root = write(tmp_path)
    assert recognise(root) == kind
    assert splits(root) == splits(root, kind) == found
    split = default_split(root)
    assert split == (found[0] if len(found) == 1 else "val")
    data = open_dataset(root, split)
    assert (data.split, len(data)) == (split, 3)
    image, annotation = data[0]
    assert image.shape[:2] == annotation.size


def test_a_format_can_be_named(tmp_path: Path) -> None:
    root = _both_of_coco(tmp_path)
    assert all(label.is_thing for label in open_dataset(root, "val", "coco-instances").labels)
    with pytest.raises(InputError, match="expected a split val of the format semantic; found none"):
        open_dataset(root, "val", "semantic")
    with pytest.raises(InputError, match="expected a split test of the format coco-panoptic; found val2017"):
        open_dataset(root, "test")


def test_the_configuration_knows_the_same_formats() -> None:
    assert set(FORMATS) == {"auto", *DATA_FORMATS}


def test_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--data: expected a folder, got .*nowhere"):
        recognise(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=r"expected train/ with trainannot/.*Mapillary Vistas; found pictures"):
        recognise(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"expected a folder or a JSON file in COCO's format, got .*a\.txt"):
        recognise(tmp_path / "a.txt")


def test_the_default_split_is_val_or_the_only_one(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_semantic(tmp_path / "flat", split)
    write_semantic(tmp_path / "nested", "test", nested=True)
    assert default_split(tmp_path / "flat", "semantic") == "val"
    assert default_split(tmp_path / "nested", "semantic") == "test"


def test_a_folder_that_is_not_there_is_said_for_any_format(tmp_path: Path) -> None:
    for name in FORMATS:
        for call in (splits, default_split, lambda root, kind: open_dataset(root, "val", kind)):
            with pytest.raises(InputError, match=r"--data: expected a folder, got .*nowhere.*, which is not there"):
                call(tmp_path / "nowhere", name)


def test_a_default_split_has_to_be_clear(tmp_path: Path) -> None:
    write_instance_labels(write_instance_labels(tmp_path, "a"), "b")
    with pytest.raises(InputError, match="expected a split val, or one split alone; got a, b"):
        default_split(tmp_path)
