"""Pictures and label images from files: decoded, or refused by name.

image = read_rgb(path)          # uint8 [H, W, 3]
ids = read_ids(path)            # int32 [H, W], of a PNG whose colour is an id: R + 256 G + 256² B
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises InputError where the file is missing or no image."""
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # [H, W, 3]


def read_index_map(path: Path) -> np.ndarray:
    """One channel of uint8 or uint16, [H, W]: of a grey PNG, or the indices of one with a palette.

    Raises InputError for any other kind of image.
    """
    values = _palette_indices(path) if _has_palette(path) else _decode(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2:
        raise InputError(
            f"{path}: expected one channel of class indices, got {values.shape[2]} channels (a colour label map); "
            "write the indices as a grey PNG"
        )
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: expected 8 or 16 bits a pixel, got {values.dtype}; write a grey PNG")
    return values


def read_ids(path: Path) -> np.ndarray:
    """int32 [H, W]: R + 256 G + 256² B of every pixel (panopticapi's rgb2id)."""
    blue, green, red = cv2.split(_decode(path, cv2.IMREAD_COLOR))  # [H, W] each
    return red.astype(np.int32) + (green.astype(np.int32) << 8) + (blue.astype(np.int32) << 16)


@contextlib.contextmanager
def complaints_of_decoders() -> Iterator[list[str]]:
    """What libjpeg says on stderr, in the block, of JPEGs with damaged data, of which it makes a picture all the same.

    Neither OpenCV nor Pillow hands it on. The list is filled at the block's end; what else was written goes to stderr.
    For a process in which no other thread writes to stderr: file descriptor 2 is another one for the time.
    """
    complaints: list[str] = []
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield complaints
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
                file.seek(0)
                for line in file.read().splitlines(keepends=True):
                    if line.startswith(b"Corrupt JPEG data"):
                        complaints.append(line.decode(errors="replace").strip())
                    else:
                        os.write(2, line)
    finally:
        os.close(stderr)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names. Raises InputError where there is none."""
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return images


def require_same_size(image: np.ndarray, labels: np.ndarray, image_path: Path, label_path: Path) -> None:
    """Raises InputError, with both names, where an image [H, W, 3] and its label image [H, W] differ in size."""
    if image.shape[:2] != labels.shape[-2:]:
        raise InputError(
            f"{label_path}: a label map that does not fit: expected {image.shape[0]}x{image.shape[1]} "
            f"(height x width) as the image {image_path.name} has, got {labels.shape[-2]}x{labels.shape[-1]}"
        )


def _has_palette(path: Path) -> bool:
    # the colour type of a PNG's header (https://www.w3.org/TR/png-3/#11IHDR)
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return False  # _decode says why
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[25:] == b"\x03"


def _palette_indices(path: Path) -> np.ndarray:
    """uint8 [H, W]. Pillow, for OpenCV gives the palette's colours instead."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"{path}: a PNG with a palette needs Pillow; pip install pillow") from error
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise InputError(f"{path}: expected an image, got a PNG that Pillow cannot decode ({error})") from error


def _decode(path: Path, flags: int) -> np.ndarray:
    # imdecode, not imread: paths with any letters on every platform
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if _is_cut_off(data.tobytes()):
        raise InputError(f"{path}: expected a whole image, got {data.size} bytes that end before the picture does")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said below, once
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if image is None:
        raise InputError(f"{path}: expected an image, got {data.size} bytes that OpenCV cannot decode")
    return image


def _is_cut_off(data: bytes) -> bool:
    """A JPEG or PNG without its end, of which decoders make a picture that is grey from there on.

    A JPEG that lacks the end marker alone is one too: OpenCV 5 decodes none of them, and telling it from a shorter one
    would take two decodings with libjpeg's warnings.
    """
    for start, end in ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND")):
        if data.startswith(start):
            return data.rfind(end, len(data) // 2) < 0  # cameras append data of their own, and thumbnails come first
    return False
