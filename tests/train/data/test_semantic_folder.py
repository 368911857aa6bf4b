"""The data format `semantic`: both layouts, what "ignore" is, and one clear line for every file that is wrong."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folders import SEMANTIC_NAMES, write_semantic
from PIL import Image

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import semantic_map
from mask2edge.train.data.semantic_folder import IGNORE, IGNORE_WIDE, SemanticFolder, splits

CAMVID = Path(__file__).resolve().parents[3].parent / "shared/data/camvid"


@pytest.mark.parametrize("nested", [False, True])
def test_both_layouts_read_rgb_and_indices(tmp_path: Path, nested: bool) -> None:
    data = SemanticFolder(write_semantic(tmp_path, nested=nested), "train")
    assert (len(data), data.class_names, data.ignore) == (3, SEMANTIC_NAMES, IGNORE)
    assert [(label.name, label.is_thing) for label in data.labels] == [(name, None) for name in SEMANTIC_NAMES]
    image, annotation = data[2]
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [200, 0, 20]  # RGB
    expected = np.arange(48).reshape(6, 8) % 4
    expected[expected == 3] = IGNORE
    expected[0, 0] = IGNORE
    np.testing.assert_array_equal(data.label_map(2), expected)
    np.testing.assert_array_equal(semantic_map(annotation, IGNORE), expected)
    assert annotation.label_ids.tolist() == [0, 1, 2]
    assert not annotation.crowd.any()


def test_a_segment_is_a_class_that_can_be_seen(tmp_path: Path) -> None:
    write_semantic(tmp_path)
    cv2.imwrite(str(tmp_path / "trainannot/001.png"), np.full((6, 8), 2, np.uint8))
    cv2.imwrite(str(tmp_path / "trainannot/002.png"), np.full((6, 8), IGNORE, np.uint8))
    data = SemanticFolder(tmp_path, "train")
    assert data.annotation(1).label_ids.tolist() == [2]
    assert data.annotation(1).mask(0).all()
    assert len(data.annotation(2)) == 0
    assert not data.annotation(2).planes.any()


def test_a_palette_is_read_by_its_indices(tmp_path: Path) -> None:
    write_semantic(tmp_path)
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    picture.save(tmp_path / "trainannot/001.png")
    np.testing.assert_array_equal(SemanticFolder(tmp_path, "train").label_map(1), indices)


def test_without_strictness_the_faults_are_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    _remove_label(write_semantic(tmp_path))
    data = SemanticFolder(tmp_path, "train", strict=False)
    assert [path.name for path, _ in data.pairs] == ["000.png"]
    assert [fault.split("/")[-1] for fault in data.faults] == [
        "001.png: missing, the label map of 001.png", "002.png: missing, the label map of 002.png"
    ]  # fmt: skip


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = SemanticFolder(write_semantic(tmp_path), "train")
    assert [path.name for path, _ in data.pairs] == ["000.png", "001.png", "002.png"]
    assert [data.image(index)[0, 0, 2] for index in range(3)] == [0, 10, 20]


def test_more_than_254_classes_need_16_bits(tmp_path: Path) -> None:
    write_semantic(tmp_path, count=1)
    (tmp_path / "classes.txt").write_text("\n".join(f"class{i}" for i in range(300)))
    label_map = np.full((6, 8), 255, np.uint16)  # here 255 is a class
    label_map[0, :2] = 300, 65535
    cv2.imwrite(str(tmp_path / "trainannot/000.png"), label_map)
    data = SemanticFolder(tmp_path, "train")
    assert data.ignore == IGNORE_WIDE
    assert data.label_map(0)[0].tolist() == [IGNORE_WIDE, IGNORE_WIDE, 255, 255, 255, 255, 255, 255]


def test_splits_of_either_layout(tmp_path: Path) -> None:
    write_semantic(tmp_path / "flat", "train")
    write_semantic(tmp_path / "flat", "val")
    write_semantic(tmp_path / "nested", "test", nested=True)
    assert splits(tmp_path / "flat") == ("train", "val")
    assert splits(tmp_path / "nested") == ("test",)


def _remove_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


def _empty_classes(root: Path) -> None:
    (root / "classes.txt").write_text("\n\n")


def _binary_classes(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"\xff\xd8\xff")


def _remove_folder(root: Path) -> None:
    (root / "trainannot").rename(root / "labels")


def _remove_label(root: Path) -> None:
    (root / "trainannot/001.png").unlink()
    (root / "trainannot/002.png").unlink()


def _remove_images(root: Path) -> None:
    for path in (root / "train").iterdir():
        path.unlink()


def _same_stem(root: Path) -> None:
    (root / "train/001.jpg").write_bytes((root / "train/001.png").read_bytes())


def _smaller_label(root: Path) -> None:
    cv2.imwrite(str(root / "trainannot/001.png"), np.zeros((5, 8), np.uint8))


def _color_label(root: Path) -> None:
    cv2.imwrite(str(root / "trainannot/001.png"), np.zeros((6, 8, 3), np.uint8))


def _float_label(root: Path) -> None:
    _, data = cv2.imencode(".tiff", np.zeros((6, 8), np.float32))
    (root / "trainannot/001.png").write_bytes(data.tobytes())


def _label_out_of_range(root: Path) -> None:
    label_map = np.zeros((6, 8), np.uint8)
    label_map[3, 3] = 7
    cv2.imwrite(str(root / "trainannot/001.png"), label_map)


def _empty_image(root: Path) -> None:
    (root / "train/001.png").write_bytes(b"")


def _text_image(root: Path) -> None:
    (root / "train/001.png").write_text("not an image")


def _cut_label(root: Path) -> None:
    path = root / "trainannot/001.png"
    path.write_bytes(path.read_bytes()[:20])


BAD_FOLDERS: list[tuple[Callable[[Path], None], str]] = [
    (_remove_classes, r"classes\.txt: missing; expected one class name a line"),
    (_empty_classes, r"classes\.txt: expected one class name a line, got an empty file"),
    (_binary_classes, r"classes\.txt: expected text"),
    (_remove_folder, r"expected train/ with trainannot/ or images/train/ with annotations/train/; found labels, train"),
    (_remove_label, r"trainannot: 2 of 3 images have no label map; the first is 001\.png"),
    (_remove_images, r"train: expected images \(\.jpg, .*\), found none"),
    (_same_stem, r"two images are named 001"),
]
BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (_smaller_label, r"001\.png: a label map that does not fit: expected 6x8 .* 001\.png has, got 5x8"),
    (_color_label, r"001\.png: expected one channel of class indices, got 3 channels"),
    (_float_label, r"001\.png: expected 8 or 16 bits a pixel, got float32"),
    (
        _label_out_of_range,
        r"001\.png: expected class indices 0 to 2 \(3 classes\), or 3 or 255 for ignored pixels; got 7",
    ),
    (_empty_image, r"001\.png: expected an image, got 0 bytes"),
    (_text_image, r"001\.png: expected an image, got 12 bytes"),
    (_cut_label, r"001\.png: expected a whole image, got 20 bytes that end before the picture does"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_folder_is_refused_when_opened(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write_semantic(tmp_path))
    with pytest.raises(InputError, match=message):
        SemanticFolder(tmp_path, "train")


@pytest.mark.parametrize(("damage", "message"), BAD_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write_semantic(tmp_path))
    data = SemanticFolder(tmp_path, "train")
    data[0]
    for _ in range(2):  # a failure is not cached
        with pytest.raises(InputError, match=message):
            data[1]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--data: expected a folder, got .*nowhere"):
        SemanticFolder(tmp_path / "nowhere", "train")


def test_camvid_is_read_as_it_is_described() -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"needs the data set in {CAMVID}")
    train, val = SemanticFolder(CAMVID, "train"), SemanticFolder(CAMVID, "val")
    assert (len(train), len(val), len(val.class_names)) == (367, 101, 11)
    image, annotation = val[0]
    assert (image.shape, annotation.size) == ((360, 480, 3), (360, 480))
    assert set(np.unique(val.label_map(0))) <= {*range(11), IGNORE}
