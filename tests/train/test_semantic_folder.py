"""The data format `semantic`: both layouts, what "ignore" is, and one clear line for every file that is wrong."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.semantic_folder import IGNORE, IGNORE_WIDE, SemanticFolder, default_split, splits

CAMVID = Path(__file__).resolve().parents[2].parent / "shared/data/camvid"
NAMES = ("sky", "road", "car")


def write(root: Path, split: str = "train", nested: bool = False, count: int = 3) -> Path:
    """Images of 6x8 with blue = 10 * index, and label maps that hold every class, 3 (= ignore) and 255."""
    images = root / "images" / split if nested else root / split
    labels = root / "annotations" / split if nested else root / f"{split}annot"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for index in range(count):
        image = np.zeros((6, 8, 3), np.uint8)
        image[..., 0] = 10 * index
        image[..., 2] = 200
        cv2.imwrite(str(images / f"{index:03}.png"), image)
        label_map = np.arange(48, dtype=np.uint8).reshape(6, 8) % 4
        label_map[0, 0] = 255
        cv2.imwrite(str(labels / f"{index:03}.png"), label_map)
    return root


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_both_layouts_read_rgb_and_indices(tmp_path: Path, nested: bool, cache: bool) -> None:
    data = SemanticFolder(write(tmp_path, nested=nested), "train", cache=cache)
    assert (len(data), data.class_names, data.ignore) == (3, NAMES, IGNORE)
    for _ in range(2):  # the second time from the cache
        image, label_map = data[2]
        assert image.dtype == label_map.dtype == np.uint8
        assert image[0, 0].tolist() == [200, 0, 20]  # RGB
        expected = np.arange(48).reshape(6, 8) % 4
        expected[expected == 3] = IGNORE
        expected[0, 0] = IGNORE
        np.testing.assert_array_equal(label_map, expected)


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = SemanticFolder(write(tmp_path), "train")
    assert [path.name for path, _ in data.pairs] == ["000.png", "001.png", "002.png"]
    assert [data.image(index)[0, 0, 2] for index in range(3)] == [0, 10, 20]


def test_more_than_254_classes_need_16_bits(tmp_path: Path) -> None:
    write(tmp_path, count=1)
    (tmp_path / "classes.txt").write_text("\n".join(f"class{i}" for i in range(300)))
    label_map = np.full((6, 8), 255, np.uint16)  # here 255 is a class
    label_map[0, :2] = 300, 65535
    cv2.imwrite(str(tmp_path / "trainannot/000.png"), label_map)
    data = SemanticFolder(tmp_path, "train")
    assert data.ignore == IGNORE_WIDE
    assert data[0][1][0].tolist() == [IGNORE_WIDE, IGNORE_WIDE, 255, 255, 255, 255, 255, 255]


def test_splits_of_either_layout(tmp_path: Path) -> None:
    write(tmp_path / "flat", "train")
    write(tmp_path / "flat", "val")
    write(tmp_path / "nested", "test", nested=True)
    assert splits(tmp_path / "flat") == ("train", "val")
    assert default_split(tmp_path / "flat") == "val"
    assert default_split(tmp_path / "nested") == "test"
    write(tmp_path / "two", "a")
    write(tmp_path / "two", "b")
    with pytest.raises(InputError, match="expected a split val, or one split alone; got a, b"):
        default_split(tmp_path / "two")


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
    (_label_out_of_range, r"001\.png: expected class indices 0 to 2 .* or 3 or 255 for ignored pixels; got 7"),
    (_empty_image, r"001\.png: expected an image, got 0 bytes"),
    (_text_image, r"001\.png: expected an image, got 12 bytes"),
    (_cut_label, r"001\.png: expected an image, got 20 bytes"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_folder_is_refused_when_opened(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write(tmp_path))
    with pytest.raises(InputError, match=message):
        SemanticFolder(tmp_path, "train")


@pytest.mark.parametrize(("damage", "message"), BAD_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write(tmp_path))
    data = SemanticFolder(tmp_path, "train", cache=True)
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
    image, label_map = val[0]
    assert (image.shape, label_map.shape) == ((360, 480, 3), (360, 480))
    assert set(np.unique(label_map)) <= {*range(11), IGNORE}
