"""Images with one class index per pixel: the data format `semantic`.

    data = SemanticFolder(Path("camvid"), "val")
    image, label_map = data.image(0), data.label_map(0)     # RGB uint8 [H,W,3], uint8 or uint16 [H,W]

Two layouts: SPLIT/ beside SPLITannot/, or images/SPLIT beside annotations/SPLIT; classes.txt (one name a line) at the
root. A label map is a one-channel PNG named like its image; the number of classes and 255 both mean "ignore".
NumPy and OpenCV only, so that the benchmarks read it where torch is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError

IGNORE = 255  # in label maps given out; a data set of more than 254 classes gets uint16 maps and IGNORE_WIDE
IGNORE_WIDE = 65535
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
CLASSES_FILE = "classes.txt"
_LAYOUTS: tuple[Callable[[Path, str], tuple[Path, Path]], ...] = (
    lambda root, split: (root / split, root / f"{split}annot"),
    lambda root, split: (root / "images" / split, root / "annotations" / split),
)


class SemanticFolder:
    """One split of a folder: pairs of image and label map, in the order of their names.

    root: the data set's folder; split: such as "train" or "val"; cache: keep decoded images in memory (CamVid's train
    split takes 250 MB). Raises InputError where a folder, classes.txt or an image's label map is missing.
    """

    def __init__(self, root: Path, split: str, cache: bool = False) -> None:
        self.root, self.split = root, split
        image_folder, label_folder = _folders(root, split)
        self.class_names = read_class_names(root / CLASSES_FILE)
        self.ignore = IGNORE if len(self.class_names) < IGNORE else IGNORE_WIDE
        self.pairs = _pairs(image_folder, label_folder)
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(image, label map) of the same height and width. The arrays may be shared: do not write into them."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image, label_map = self.image(index), self.label_map(index)
        if image.shape[:2] != label_map.shape:
            raise InputError(
                f"{self.pairs[index][1]}: a label map that does not fit: expected {_size(image)} (height x width) "
                f"as the image {self.pairs[index][0].name} has, got {_size(label_map)}"
            )
        if self._cache is not None:
            self._cache[index] = image, label_map
        return image, label_map

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [H,W,3]."""
        path = self.pairs[index][0]
        bgr = _read(path, cv2.IMREAD_COLOR)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # [H,W,3]

    def label_map(self, index: int) -> np.ndarray:
        """Class indices [H,W], uint8 (uint16 for more than 254 classes); every ignored pixel is `self.ignore`."""
        path = self.pairs[index][1]
        values = _read(path, cv2.IMREAD_UNCHANGED)
        if values.ndim != 2:
            raise InputError(
                f"{path}: expected one channel of class indices, got {values.shape[2]} channels (a colour label map, "
                "or a PNG with a palette); write the indices as a grey PNG"
            )
        if values.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: expected 8 or 16 bits a pixel, got {values.dtype}; write a grey PNG")
        classes = len(self.class_names)
        ignored = (values == classes) | (values == self.ignore)
        wrong = (values > classes) & ~ignored  # [H,W]
        if wrong.any():
            raise InputError(
                f"{path}: expected class indices 0 to {classes - 1} ({CLASSES_FILE}), or {classes} or {self.ignore} "
                f"for ignored pixels; got {int(values[wrong][0])}"
            )
        kind = np.uint8 if self.ignore == IGNORE else np.uint16
        return np.where(ignored, self.ignore, values).astype(kind)  # [H,W]


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, in either layout, by name; empty where it is no such folder."""
    flat = [path.name.removesuffix("annot") for path in root.glob("*annot") if path.is_dir()]
    nested = [path.name for path in (root / "annotations").glob("*") if path.is_dir()]
    names = dict.fromkeys(sorted(flat) + sorted(nested))
    return tuple(name for name in names if name and any(layout(root, name)[0].is_dir() for layout in _LAYOUTS))


def default_split(root: Path) -> str:
    """val, else the only split there is. Raises InputError."""
    found = splits(root)
    if "val" in found:
        return "val"
    if len(found) != 1:
        raise InputError(f"{root}: expected a split val, or one split alone; got {', '.join(found) or 'none'}")
    return found[0]


def read_class_names(path: Path) -> tuple[str, ...]:
    """classes.txt: one name a line, its place is the class index. Raises InputError where it is missing or empty."""
    if not path.is_file():
        raise InputError(f"{path}: missing; expected one class name a line, in the order of the indices")
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text (UTF-8), one class name a line; got {error}") from error
    if not names:
        raise InputError(f"{path}: expected one class name a line, got an empty file")
    return names


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    if not root.is_dir():
        raise InputError(f"--data: expected a folder, got {str(root)!r}, which is not there")
    candidates = [layout(root, split) for layout in _LAYOUTS]
    for image_folder, label_folder in candidates:
        if image_folder.is_dir() and label_folder.is_dir():
            return image_folder, label_folder
    expected = " or ".join(f"{a.relative_to(root)}/ with {b.relative_to(root)}/" for a, b in candidates)
    found = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:8]) or "no folders"
    raise InputError(f"{root}: expected {expected}; found {found}")


def _pairs(image_folder: Path, label_folder: Path) -> tuple[tuple[Path, Path], ...]:
    images = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{image_folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{image_folder}: two images are named {twice}; the label map belongs to one of them")
    pairs = tuple((path, label_folder / f"{path.stem}.png") for path in images)
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise InputError(
            f"{label_folder}: {len(missing)} of {len(pairs)} images have no label map; the first is {missing[0].name}"
        )
    return pairs


def _read(path: Path, flags: int) -> np.ndarray:
    # imdecode, not imread: no warning of OpenCV's own on stderr, and paths with any letters on every platform
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise InputError(f"{path}: expected an image, got {data.size} bytes that OpenCV cannot decode")
    return image


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
