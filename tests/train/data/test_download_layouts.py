"""Cityscapes, Mapillary Vistas and ADE20K as they are downloaded, in small copies of their layouts."""

from pathlib import Path

import numpy as np
import pytest
from data_folders import write_image
from PIL import Image

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.ade20k import open_ade20k
from mask2edge.train.data.annotation import Dataset, semantic_map
from mask2edge.train.data.cityscapes import decode, open_cityscapes, splits
from mask2edge.train.data.formats import open_dataset, recognise
from mask2edge.train.data.mapillary import open_mapillary
from mask2edge.train.data.relabelled import for_tasks
from mask2edge.train.labels import load_labels

IMAGE = np.zeros((8, 10, 3), np.uint8)


def values(*numbers: int) -> np.ndarray:
    """[8, 10], a row of each number, the last one down to the bottom."""
    rows = np.array([*numbers, *[numbers[-1]] * (8 - len(numbers))])
    return np.repeat(rows[:, None], 10, 1).astype(np.uint16)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Rows: road (7), two cars (26000, 26001), a group of cars (26), a person (24000), licence plates, unlabelled."""
    for city in ("ulm", "bonn"):
        write_image(tmp_path / f"leftImg8bit/train/{city}/{city}_0_leftImg8bit.png", IMAGE)
        base = tmp_path / f"gtFine/train/{city}/{city}_0_gtFine"
        write_image(Path(f"{base}_instanceIds.png"), values(7, 26000, 26001, 26, 24000, 4, 0, 29003))
        write_image(Path(f"{base}_labelTrainIds.png"), values(0, 13, 13, 13, 11, 255, 255, 255).astype(np.uint8))
    return tmp_path


def test_cityscapes_instances(cityscapes: Path) -> None:
    assert recognise(cityscapes) == "cityscapes"
    assert splits(cityscapes) == ("train",)
    data = open_dataset(cityscapes, "train")
    assert [data.name(index) for index in range(2)] == ["bonn_0_leftImg8bit.png", "ulm_0_leftImg8bit.png"]
    annotation = data[0][1]
    found = {
        (data.labels[label_id].name, bool(annotation.crowd[k]), int(np.flatnonzero(annotation.mask(k).all(1))[0]))
        for k, label_id in enumerate(annotation.label_ids)
    }
    assert found == {("road", False, 0), ("car", False, 1), ("car", False, 2), ("car", True, 3), ("person", False, 4)}
    assert not annotation.planes[:, 5:].any()


def _serves_classes_alone(data: Dataset) -> None:
    assert for_tasks(data, ("semantic",)) is data
    for task in ("panoptic", "instance"):  # all cars of an image are one segment
        with pytest.raises(InputError, match="one class a pixel and no objects"):
            for_tasks(data, (task,))


def test_cityscapes_classes_are_the_same_from_either_kind_of_file(cityscapes: Path) -> None:
    panoptic = for_tasks(open_cityscapes(cityscapes, "train"), ("semantic",))
    expected = semantic_map(panoptic.annotation(0), 255)
    for path in cityscapes.glob("gtFine/*/*/*_instanceIds.png"):
        path.unlink()
    data = open_cityscapes(cityscapes, "train")
    np.testing.assert_array_equal(semantic_map(data.annotation(0), 255), expected)
    np.testing.assert_array_equal(expected[:, 0], [0, 13, 13, 13, 11, 255, 255, 255])
    _serves_classes_alone(data)


def test_cityscapes_ids_are_those_of_its_own_scripts() -> None:
    # helpers/labels.py of cityscapesscripts: the id of each train id, and from which train id on there are instances
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for number in range(34):
        known = number in ids
        train_id = ids.index(number) if known else -1
        assert decode(number) == ((train_id, train_id >= 11) if known else None)
        assert decode(1000 * number + 5) == ((train_id, False) if known else None)


def test_cityscapes_without_a_label_image(cityscapes: Path) -> None:
    next(cityscapes.glob("gtFine/train/ulm/*_instanceIds.png")).unlink()
    with pytest.raises(
        InputError, match=r"1 of 2 images have no label map; the first is ulm_0_gtFine_instanceIds\.png"
    ):
        open_cityscapes(cityscapes, "train")
    assert len(open_cityscapes(cityscapes, "train", strict=False)) == 1
    with pytest.raises(InputError, match=r"expected a split val of the format cityscapes; found train"):
        open_dataset(cityscapes, "val")
    with pytest.raises(InputError, match=r"expected images leftImg8bit/val/CITY/"):
        open_cityscapes(cityscapes, "val")


@pytest.mark.parametrize("version", ["v1.2", ""])
def test_mapillary_instances_and_classes(tmp_path: Path, version: str) -> None:
    folder = tmp_path / "validation" / version
    write_image(tmp_path / "validation/images/a.jpg", IMAGE)
    # two persons (19), road (13), the last class (64), unlabelled (65)
    write_image(folder / "instances/a.png", values(19 * 256, 19 * 256 + 1, 13 * 256, 64 * 256, 65 * 256))
    assert recognise(tmp_path) == "mapillary"
    data = open_dataset(tmp_path, "val")
    annotation = data[0][1]
    assert [data.labels[label_id].name for label_id in annotation.label_ids] == [
        "Road", "Person", "Person", "Ego Vehicle"
    ]  # fmt: skip
    assert not annotation.planes[:, 4:].any()
    labels = Image.fromarray(values(19, 19, 13, 64, 65).astype(np.uint8), mode="P")
    labels.putpalette([value for i in range(66) for value in (i, 255 - i, 7)])
    (folder / "labels").mkdir(parents=True)
    labels.save(folder / "labels/a.png")
    expected = semantic_map(for_tasks(data, ("semantic",)).annotation(0), 255)
    (folder / "instances/a.png").unlink()
    (folder / "instances").rmdir()
    semantic = open_mapillary(tmp_path, "validation")
    np.testing.assert_array_equal(semantic_map(semantic.annotation(0), 255), expected)
    np.testing.assert_array_equal(expected[:, 0], [19, 19, 13, 64, 255, 255, 255, 255])
    _serves_classes_alone(semantic)
    with pytest.raises(InputError, match=r"expected training/images with training/v1\.2/instances"):
        open_mapillary(tmp_path, "training")


def test_ade20k_begins_at_one(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        write_image(tmp_path / f"images/{split}/a.jpg", IMAGE)
        write_image(tmp_path / f"annotations/{split}/a.png", values(0, 1, 150, 2).astype(np.uint8))
    assert recognise(tmp_path) == "ade20k"
    data = open_dataset(tmp_path, "train")
    assert data.split == "training"
    assert data.labels == load_labels("ade20k")
    np.testing.assert_array_equal(semantic_map(data[0][1], 255)[:, 0], [255, 0, 149, 1, 1, 1, 1, 1])
    assert semantic_map(open_ade20k(tmp_path, "validation").annotation(0), -1)[2, 0] == 149
    write_image(tmp_path / "annotations/training/a.png", values(0, 1, 152).astype(np.uint8))
    with pytest.raises(InputError, match=r"a\.png: expected class indices 1 to 150 \(150 classes\).*; got 152"):
        data[0]
    (tmp_path / "classes.txt").write_text("a\nb")  # the user's own classes
    assert recognise(tmp_path) == "semantic"
