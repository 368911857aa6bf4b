"""Image files as the network's callers want them: uint8 [H, W, 3] BGR, upright, whatever the file holds.

    image = read_image(Path("street.jpg"))
    paths = find_images(["photos/", "more/*.png"])

Grey and palette images become colour, CMYK becomes RGB, EXIF orientation is applied. 16 bits are scaled to 8 by 257,
so that white stays white. Transparency is dropped, as cv2.imread drops it: the hidden colour shows.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
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
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if _is_image_name(file))
            if not files:
                raise InputError(f"{source}: {EXPECTED} in this folder, got none")
        elif path.is_file():
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
        raise InputError(f"{name}: {EXPECTED}, got {_description(data)}")
    if image.dtype == np.uint16:
        # In integers: 65535 -> 255, rounded to the nearest.
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{name}: expected 8 or 16 bits a channel, got {image.dtype}; convert it first")
    return image


def _check_header(name: str, data: bytes, largest: int) -> None:
    """Refuses what a decoder would take on trust: an end that is missing (it fills with grey), a size beyond reason."""
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
        if b"IEND" not in data:
            raise InputError(f"{name}: expected a whole PNG image, got one that is cut off")
    elif data.startswith(b"\xff\xd8"):
        size, whole = _read_jpeg_header(data)
        if not whole:
            raise InputError(f"{name}: expected a whole JPEG image, got one that is cut off")
    if size is not None and size[0] * size[1] > largest:
        raise InputError(f"{name}: expected at most {largest} pixels, got {size[0]}x{size[1]}; make it smaller first")


def _read_jpeg_header(data: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) if the frame header is there, and whether an end marker follows the start of the scan.

    Markers' segments are stepped over by their lengths, since a thumbnail in one has markers of its own.
    """
    size, position = None, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            size = (
                int.from_bytes(data[position + 5 : position + 7], "big"),
                int.from_bytes(data[position + 7 : position + 9], "big"),
            )
        if marker == 0xDA:  # start of scan: its data never holds an end marker by chance
            return size, data.find(b"\xff\xd9", position) >= 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return size, False


def _description(data: bytes) -> str:
    try:
        data[:512].decode("ascii")
    except UnicodeDecodeError:
        return "a damaged image or a file of another kind"
    return "a text file"


def _is_image_name(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
