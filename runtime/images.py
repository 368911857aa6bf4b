"""Image files as the network's callers want them: uint8 [H, W, 3] BGR, upright, whatever the file holds.

    image = read_image(Path("street.jpg"))
    paths = find_images(["photos/", "more/*.png"])

Grey and palette images become colour, CMYK becomes RGB, EXIF orientation is applied. 16 bits are scaled to 8 by 257,
so that white stays white. Transparency is dropped, as cv2.imread drops it: the hidden colour shows.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.image_header import read_header, read_jpeg_header

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".flv", ".wmv", ".3gp",
)  # fmt: skip
MOST_SCANS = 100  # of a JPEG: a progressive one has about ten; each costs the time of a whole picture
LARGEST = 1 << 28  # pixels: beyond, a few bytes of file could ask for all of a small device's memory
EXPECTED = f"expected an image ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})"


def find_images(sources: Sequence[str]) -> list[Path]:
    """The image files that files, folders and globs name: each once, folders and globs in order of name.

    Of a folder, the files with an image's suffix are taken. Raises InputError where a source names nothing, or a
    video, camera or stream.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if os.path.isdir(source):  # unlike Path's, an answer for names that no file can have
            files = sorted(file for file in path.iterdir() if _is_image_name(file))
            if not files:
                raise InputError(f"{source}: {EXPECTED} in this folder, got none")
        elif os.path.isfile(source):
            files = [path]
        elif any(character in source for character in "*?["):
            matches = sorted(Path(match) for match in glob.glob(source, recursive=True))
            files = [file for file in matches if file.is_file() and _is_image_name(file)]
            if not files:
                raise InputError(f"{source}: expected a pattern that matches images, got none; quote it if need be")
        elif source.isdecimal() or "://" in source:
            raise InputError(f"{source}: expected images here, got a camera or stream; name images, folders, globs")
        else:
            raise InputError(f"{source}: no such file or folder; name images, folders or globs")
        for file in files:
            if file.suffix.lower() in VIDEO_SUFFIXES:
                raise InputError(f"{file}: expected images here, got a video; name images, folders or globs")
        found += files
    return list(dict.fromkeys(found))


def read_image(path: Path) -> np.ndarray:
    """The image, uint8 [H, W, 3] BGR. Raises InputError for anything that is not a whole image."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str, largest: int = LARGEST) -> np.ndarray:
    """The image of a file's bytes, uint8 [H, W, 3] BGR. Raises InputError, which begins with `name`, for anything that
    is not a whole image or whose header says that it has more than `largest` pixels.
    """
    if not data:
        raise InputError(f"{name}: {EXPECTED}, got an empty file")
    _check_header(name, data, largest)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except (cv2.error, MemoryError) as error:
        raise InputError(f"{name}: {EXPECTED}, got one that is damaged or too large to decode") from error
    if image is None:
        raise InputError(f"{name}: {EXPECTED}, got {description(data)}")
    if image.dtype == np.uint16:
        # In integers: 65535 -> 255, rounded to the nearest.
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{name}: expected 8 or 16 bits a channel, got {image.dtype}; convert it first")
    return image


def _check_header(name: str, data: bytes, largest: int) -> None:
    """Refuses what a decoder would take on trust: an end that is missing (it fills with grey), a size or a number of
    scans beyond reason, animated PNGs, and formats that nobody asked for, whose sizes are not known here.
    """
    kind, size = read_header(data)
    if kind is None:
        raise InputError(f"{name}: {EXPECTED}, got {description(data)}")
    if kind == "png" and b"IEND" not in data:
        raise InputError(f"{name}: expected a whole PNG image, got one that is cut off")
    if kind == "png" and b"acTL" in data.partition(b"IDAT")[0]:  # a damaged one shows memory that OpenCV never set
        raise InputError(f"{name}: expected a still image, got an animated PNG; save one of its frames")
    if kind == "jpeg" and not read_jpeg_header(data)[1]:
        raise InputError(f"{name}: expected a whole JPEG image, got one that is cut off")
    if size is None:
        raise InputError(f"{name}: expected a whole {kind.upper()} image, got one that is cut off or damaged")
    if size[0] * size[1] > largest:
        raise InputError(f"{name}: expected at most {largest} pixels, got {size[0]}x{size[1]}; make it smaller first")
    if kind == "jpeg" and data.count(b"\xff\xda") > MOST_SCANS:
        raise InputError(f"{name}: expected a JPEG of at most {MOST_SCANS} scans; save it anew")


def description(data: bytes) -> str:
    """What bytes that are no image seem to be, in a few words."""
    try:
        data[:512].decode("ascii")
    except UnicodeDecodeError:
        return "a damaged image or a file of another kind"
    return "a text file"


def _is_image_name(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
