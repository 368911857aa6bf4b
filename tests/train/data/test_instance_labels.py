"""The format `instance-labels`: objects by index, the background as stuff or as nothing, and what is wrong by name."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folders import scene, write_instance_labels

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.instance_labels import InstanceLabels, splits

DSB2018 = Path(__file__).resolve().parents[3].parent / "shared/data/dsb2018"


def test_every_index_is_an_object_of_the_one_class(tmp_path: Path) -> None:
    data = InstanceLabels(write_instance_labels(tmp_path), "train", ("nucleus",))
    image, annotation = data[1]
    np.testing.assert_array_equal(image, scene()[0])
    assert [(label.name, label.is_thing) for label in data.labels] == [("nucleus", True)]
    assert annotation.label_ids.tolist() == [0, 0, 0, 0]
    assert not annotation.crowd.any()
    for segment in range(4):  # 1, 2, 3 and 700 in the file
        np.testing.assert_array_equal(annotation.mask(segment), scene()[1] == segment + 1)
    np.testing.assert_array_equal(annotation.planes[0] == 0, scene()[1] == 0)


def test_a_second_class_is_the_background(tmp_path: Path) -> None:
    data = InstanceLabels(write_instance_labels(tmp_path), "train", ("nucleus", "background"))
    annotation = data.annotation(0)
    assert [(label.name, label.is_thing) for label in data.labels] == [("nucleus", True), ("background", False)]
    assert annotation.label_ids.tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_array_equal(annotation.mask(4), scene()[1] == 0)
    cv2.imwrite(str(tmp_path / "train/labels/000.png"), np.ones((24, 32), np.uint8))
    assert data.annotation(0).label_ids.tolist() == [0]  # no background to be seen
    cv2.imwrite(str(tmp_path / "train/labels/000.png"), np.zeros((24, 32), np.uint8))
    assert data.annotation(0).label_ids.tolist() == [1]
    assert len(InstanceLabels(tmp_path, "train").annotation(0)) == 0  # an image without objects is fine


def test_names_come_from_the_call_or_classes_txt_or_are_generic(tmp_path: Path) -> None:
    write_instance_labels(tmp_path)
    assert [label.name for label in InstanceLabels(tmp_path, "train").labels] == ["object"]
    (tmp_path / "classes.txt").write_text("cell\nrest\n")
    assert [label.name for label in InstanceLabels(tmp_path, "train").labels] == ["cell", "rest"]
    assert [label.name for label in InstanceLabels(tmp_path, "train", ("x",)).labels] == ["x"]
    with pytest.raises(InputError, match=r"one name or two .* got a, b, c"):
        InstanceLabels(tmp_path, "train", ("a", "b", "c"))


def test_splits(tmp_path: Path) -> None:
    write_instance_labels(write_instance_labels(tmp_path), "val", 1)
    (tmp_path / "else/labels").mkdir(parents=True)
    assert splits(tmp_path) == ("train", "val")


def _remove_label(root: Path) -> None:
    (root / "train/labels/001.png").unlink()


def _remove_folder(root: Path) -> None:
    (root / "train/labels").rename(root / "train/masks")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_label, r"labels: 1 of 3 images have no label map; the first is 001\.png"),
        (_remove_folder, r"labels: missing; expected train/images with train/labels"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write_instance_labels(tmp_path))
    with pytest.raises(InputError, match=message):
        InstanceLabels(tmp_path, "train")


def test_without_strictness_a_missing_label_image_is_said(tmp_path: Path) -> None:
    _remove_label(write_instance_labels(tmp_path))
    data = InstanceLabels(tmp_path, "train", strict=False)
    assert [data.name(index) for index in range(len(data))] == ["000.png", "002.png"]
    assert data.faults == (f"{tmp_path}/train/labels/001.png: missing, the label map of 001.png",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((23, 32), np.uint16), r"001\.png: a label map that does not fit: expected 24x32 .*, got 23x32"),
        (np.zeros((24, 32, 3), np.uint8), r"001\.png: expected one channel of class indices, got 3 channels"),
    ],
)
def test_a_wrong_label_image_is_refused_by_name(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    data = InstanceLabels(write_instance_labels(tmp_path), "train")
    cv2.imwrite(str(tmp_path / "train/labels/001.png"), labels)
    with pytest.raises(InputError, match=message):
        data[1]


def test_dsb2018_is_read_as_it_is_described() -> None:
    if not DSB2018.is_dir():
        pytest.skip(f"needs the data set in {DSB2018}")
    data = InstanceLabels(DSB2018, "val", ("nucleus", "background"))
    assert len(data) == 67
    for index in (0, 30, 66):
        image, annotation = data[index]
        values = cv2.imread(str(data.pairs[index][1]), cv2.IMREAD_UNCHANGED)
        assert image.shape[:2] == annotation.size == values.shape
        assert len(annotation) == len(np.unique(values))
        assert (annotation.planes > 0).all()
