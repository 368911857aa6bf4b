"""Images with one class index per pixel: the data format `semantic`.

    data = SemanticFolder(Path("camvid"), "val")
    image, annotation = data[0]
    data.label_map(0)       # class indices, uint8 or uint16 [H,W]

Two layouts: SPLIT/ beside SPLITannot/, or images/SPLIT beside annotations/SPLIT; classes.txt (one name a line) at the
root. A label map is a one-channel PNG named like its image; the number of classes and 255 both mean "ignore".
NumPy and OpenCV only, so that the benchmarks read it where torch is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.image_file import images_in, read_index_map, read_rgb, require_same_size
from mask2edge.train.labels import labels_from_names

IGNORE = 255  # in label maps given out; a data set of more than 254 classes gets uint16 maps and IGNORE_WIDE
IGNORE_WIDE = 65535
CLASSES_FILE = "classes.txt"
Pair = tuple[Path, Path]  # an image and its label map
_LAYOUTS: tuple[Callable[[Path, str], tuple[Path, Path]], ...] = (
    lambda root, split: (root / split, root / f"{split}annot"),
    lambda root, split: (root / "images" / split, root / "annotations" / split),
)


class SemanticMaps:
    """Pairs of image and label map. `first`: the value of class 0; smaller values mean "ignore" (ADE20K's 0).

    class_names, labels: of the classes; ignore: in label maps given out; faults: what is wrong with images left out.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        labels: Sequence[Label],
        pairs: Sequence[Pair],
        faults: Sequence[str] = (),
        first: int = 0,
    ) -> None:
        self.root, self.split, self.labels = root, split, tuple(labels)
        self.pairs, self.faults, self._first = tuple(pairs), tuple(faults), first
        self.class_names = tuple(label.name for label in labels)
        self.ignore = IGNORE if len(labels) < IGNORE else IGNORE_WIDE

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Annotation]:
        image, annotation = self.image(index), self.annotation(index)
        require_same_size(image, annotation.planes, *self.pairs[index])
        return image, annotation

    def name(self, index: int) -> str:
        return self.pairs[index][0].name

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 [H,W,3]."""
        return read_rgb(self.pairs[index][0])

    def annotation(self, index: int) -> Annotation:
        """One segment for each class present, in the order of the classes."""
        label_map = self.label_map(index)  # [H,W]
        present = np.flatnonzero(np.bincount(label_map.ravel()))
        present = present[present != self.ignore]  # [n]
        places = np.zeros(self.ignore + 1, np.int32)
        places[present] = np.arange(1, len(present) + 1)
        return Annotation(places[label_map][None], present.astype(np.int64), np.zeros(len(present), bool))

    def unnamed(self, index: int) -> int:
        """Pixels with the first index after the classes: ignored, or a class that the list of names lacks."""
        return int((read_index_map(self.pairs[index][1]) == self._first + len(self.labels)).sum())

    def about_unnamed(self, unnamed: int, pixels: int) -> str:
        """What to say of that many of `pixels`."""
        return (
            f"{100 * unnamed / pixels:.2f} % of the pixels have the index {self._first + len(self.labels)}, the first "
            f"after the {len(self.labels)} classes, which is ignored; if it is a class, its name is missing"
        )

    def label_map(self, index: int) -> np.ndarray:
        """Class indices [H,W], uint8 (uint16 for more than 254 classes); every ignored pixel is `self.ignore`."""
        path = self.pairs[index][1]
        values = read_index_map(path)  # [H,W]
        first, end = self._first, self._first + len(self.labels)
        ignored = (values == end) | (values == self.ignore) | (values < first)
        wrong = (values > end) & ~ignored  # [H,W]
        if wrong.any():
            raise InputError(
                f"{path}: expected class indices {first} to {end - 1} ({len(self.labels)} classes), or {end} or "
                f"{self.ignore} for ignored pixels; got {int(values[wrong][0])}"
            )
        kind = np.uint8 if self.ignore == IGNORE else np.uint16
        return np.where(ignored, self.ignore, values - first).astype(kind)  # [H,W]


class SemanticFolder(SemanticMaps):
    """One split of a folder with classes.txt, images in the order of their names.

    root: the data set's folder; split: such as "train" or "val". Raises InputError where a folder or classes.txt is
    missing, or label maps are and `strict`; else their images are left out and said in `faults`.
    """

    def __init__(self, root: Path, split: str, strict: bool = True) -> None:
        images, maps = _folders(root, split)
        labels = labels_from_names(read_class_names(root / CLASSES_FILE))
        super().__init__(root, split, labels, *paired(images, maps, strict))


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, in either layout, by name; empty where it is no such folder."""
    flat = [path.name.removesuffix("annot") for path in root.glob("*annot") if path.is_dir()]
    nested = [path.name for path in (root / "annotations").glob("*") if path.is_dir()]
    names = dict.fromkeys(sorted(flat) + sorted(nested))
    return tuple(name for name in names if name and any(layout(root, name)[0].is_dir() for layout in _LAYOUTS))


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


def paired(images: Path, maps: Path, strict: bool) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Images and the PNGs of their names in another folder; and what is wrong with the images that are left out.

    Raises InputError where two images have one name, or where PNGs are missing: some and `strict`, or all.
    """
    pictures = images_in(images)
    stems = [path.stem for path in pictures]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{images}: two images are named {twice}; the label map belongs to one of them")
    return existing([(path, maps / f"{path.stem}.png") for path in pictures], maps, strict)


def existing(pairs: Sequence[Pair], maps: Path, strict: bool) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs whose label map is there, and a line for each of the others. Raises InputError as `paired`."""
    kept = tuple(pair for pair in pairs if pair[1].is_file())
    missing = [pair for pair in pairs if not pair[1].is_file()]
    if missing and (strict or not kept):
        raise InputError(
            f"{maps}: {len(missing)} of {len(pairs)} images have no label map; the first is {missing[0][1].name}"
        )
    return kept, tuple(f"{label}: missing, the label map of {image.name}" for image, label in missing)
