"""From a uint8 BGR image to the network's input: resize with the ratio kept, normalise, pad bottom and right with 0.

    prepared = preprocess(cv2.imread("street.jpg"), spec.model.preprocessing, spec.profile)
    prepared.pixels.shape, prepared.content, prepared.image     # (1, 3, 512, 512), (384, 512), (720, 960)

Never a stretch: both axes get the same scale, and differ from it only by rounding to whole pixels (at least one).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.native_library import Shape, check_memory, find
from mask2edge.runtime.spec import SIZE_DIVISOR, Preprocessing, Profile


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the network; `content` and `image` lead the masks back to the original."""

    pixels: np.ndarray  # float32 [1, 3, H, W], RGB, normalised; a view of the batch where there is one
    content: tuple[int, int]  # (h, w) of the resized image, at the top left of the padded input
    image: tuple[int, int]  # (H0, W0) of the original image

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W) of the network's input."""
        return self.pixels.shape[2], self.pixels.shape[3]


def check_image(image: Any) -> None:
    """Raises InputError where `image` is not what `cv2.imread` gives: uint8 [H, W, 3], BGR."""
    if not isinstance(image, np.ndarray):
        hint = "; a file is read with mask2edge.runtime.images.read_image" if isinstance(image, str) else ""
        raise InputError(f"image: expected a uint8 array of HxWx3 (BGR), got {type(image).__name__}{hint}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"image: expected a uint8 array of HxWx3 (BGR), got {image.dtype} of {'x'.join(map(str, image.shape))}; "
            "mask2edge.runtime.images.read_image converts grey, 16-bit and transparent files"
        )
    if not image.size:
        raise InputError(f"image: expected at least one pixel, got {image.shape[0]}x{image.shape[1]}")


def content_size(image: tuple[int, int], rules: Preprocessing, profile: Profile | None) -> tuple[int, int]:
    """The size (h, w) to which an image (H0, W0) is resized.

    Fixed sizes: as large as fits inside. Otherwise the shortest edge gets its length unless the longest would exceed
    its own (ResizeShortestEdge.get_output_shape of detectron2, with its rounding), shrunk into the profile's maximum.
    `profile` None means no limits. Raises InputError where a fixed size is asked for and there is no profile.
    """
    height, width = image
    if rules.resize == "fixed" or (profile is not None and profile.is_fixed_size):
        if profile is None:
            raise InputError("preprocessing.resize is fixed: expected a profile that gives the size, got none")
        _, most_height, most_width = profile.opt
        scale = min(most_height / height, most_width / width)
        return _rounded(height * scale, most_height), _rounded(width * scale, most_width)

    scale = rules.shortest_edge / min(height, width)
    new_height, new_width = height * scale, width * scale
    if max(new_height, new_width) > rules.longest_edge:
        scale = rules.longest_edge / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    if profile is None:
        return _rounded(new_height), _rounded(new_width)
    _, most_height, most_width = profile.max
    scale = min(1.0, most_height / new_height, most_width / new_width)
    return _rounded(new_height * scale, most_height), _rounded(new_width * scale, most_width)


def padded_size(contents: Sequence[tuple[int, int]], rules: Preprocessing, profile: Profile | None) -> tuple[int, int]:
    """The input size (H, W), multiples of 32, that holds each of the `contents` and lies within the profile."""
    if profile is not None and (rules.resize == "fixed" or profile.is_fixed_size):
        return profile.opt[1], profile.opt[2]
    height = _multiple(max(content[0] for content in contents))
    width = _multiple(max(content[1] for content in contents))
    if profile is None:
        return height, width
    return max(height, profile.min[1]), max(width, profile.min[2])


def preprocess(image: np.ndarray, rules: Preprocessing, profile: Profile | None = None) -> Prepared:
    """One image, uint8 [H0, W0, 3] BGR, with pixels [1, 3, H, W]. Raises InputError for anything else."""
    return preprocess_batch([image], rules, profile)[1][0]


def preprocess_batch(
    images: Sequence[np.ndarray], rules: Preprocessing, profile: Profile | None = None, threads: int = 0
) -> tuple[np.ndarray, list[Prepared]]:
    """Images of any sizes, padded to the largest among them; `threads` 0: as many as the process may use.

    Returns pixels [N, 3, H, W] and, for each image, its `Prepared`, whose pixels are a view of them. Where the profile
    wants a larger batch than there are images, the last entries of N are empty. Raises InputError.
    """
    for image in images:
        check_image(image)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    contents = [content_size(size, rules, profile) for size in sizes]
    height, width = padded_size(contents, rules, profile)
    count = len(images) if profile is None else max(len(images), profile.min[0])
    # 0 after normalisation, hence the padding and the empty entries need no pass of their own.
    pixels = np.zeros((count, 3, height, width), np.float32)  # [N, 3, H, W]
    tables = _normalisation_tables(rules)
    fill = _fill if (library := find()) is None else _NativeFill(library, threads)
    prepared = []
    for index, (image, size, content) in enumerate(zip(images, sizes, contents, strict=True)):
        fill(image, content, tables, pixels[index])
        prepared.append(Prepared(pixels[index : index + 1], content, size))
    return pixels, prepared


def _fill(image: np.ndarray, content: tuple[int, int], tables: np.ndarray, pixels: np.ndarray) -> None:
    """The image into pixels [3, H, W], which are 0; tables [3, 256]."""
    resized = _resize(image, content)  # [h, w, 3] uint8
    for channel in range(3):
        plane = np.ascontiguousarray(resized[:, :, 2 - channel])  # [h, w], BGR to RGB
        pixels[channel, : content[0], : content[1]] = cv2.LUT(plane, tables[channel])


class _NativeFill:
    """`_fill` with the native library, bit for bit: one pass, and one that does OpenCV's INTER_AREA as well."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._library = library
        self._threads = threads

    def __call__(self, image: np.ndarray, content: tuple[int, int], tables: np.ndarray, pixels: np.ndarray) -> None:
        shape = Shape(*image.shape[:2], *content, *pixels.shape[1:])
        shrinks = self._library.mask2edge_cpu_shrinks_by_area(ctypes.byref(shape))
        source = image if shrinks else _resize(image, content)
        if source.strides[1:] != (3, 1):
            source = np.ascontiguousarray(source)
        check_memory(
            self._library.mask2edge_cpu_preprocess(
                source.ctypes.data, source.strides[0], ctypes.byref(shape), shrinks, tables.ctypes.data,
                pixels.ctypes.data, self._threads,
            )
        )  # fmt: skip


def _resize(image: np.ndarray, content: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == content:
        return image
    # The reference's bilinear filter (Pillow's) widens when it shrinks, so that no pixel is skipped; OpenCV's does not,
    # and its INTER_AREA comes two to five times closer to Pillow there (RMS, photographs, scales 0.1 to 0.9).
    shrinks = content[0] < image.shape[0] or content[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (content[1], content[0]), interpolation=method)


def _normalisation_tables(rules: Preprocessing) -> np.ndarray:
    """[3, 256]: for each of R, G, B the 256 normalised values, one look-up for a subtraction and a division."""
    if any(not value > 0 for value in rules.std):
        raise InputError(f"preprocessing.std: expected values above 0, got {rules.std}")
    levels = np.arange(256, dtype=np.float64)
    with np.errstate(over="ignore"):  # what comes of it is refused
        tables = [(levels - mean) / std for mean, std in zip(rules.mean, rules.std, strict=True)]
        found = np.array(tables, np.float32)
    if not np.isfinite(found).all():
        raise InputError(
            f"preprocessing: expected a mean and std that leave pixels finite, got {rules.mean} and {rules.std}"
        )
    return found


def _rounded(length: float, most: int | None = None) -> int:
    rounded = max(1, int(length + 0.5))
    return rounded if most is None else min(rounded, most)


def _multiple(length: int) -> int:
    return (length + SIZE_DIVISOR - 1) // SIZE_DIVISOR * SIZE_DIVISOR
