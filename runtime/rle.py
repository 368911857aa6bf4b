"""COCO's run-length encoding of masks: runs of 0 and 1 down the columns, as counts or as pycocotools' string.

    counts = encode(mask)                               # mask: bool [H, W]
    {"size": [H, W], "counts": to_string(counts)}       # what COCO's results and pycocotools take

The string writes each count (from the third on, its difference from the count two before) in base 32, low digit
first; bit 5 says that more digits follow, and 48 is added to make a printable character (maskApi.c of pycocotools).
"""

from __future__ import annotations

import cv2
import numpy as np


def encode(mask: np.ndarray, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Lengths of the runs of a mask [H, W], column by column, beginning with zeros (0 if the first pixel is set).

    `box` (x0, y0, x1, y1), x1 and y1 exclusive, holds every set pixel and spares a look at the rest.
    """
    height, width = mask.shape
    total = height * width
    x0, x1 = (box[0], box[2]) if box else (0, width)
    if x0 == x1:
        return np.array([total])
    pixels = cv2.transpose(mask[:, x0:x1].view(np.uint8)).reshape(-1)  # [columns * H]: a run goes on in the next column
    inner = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    first, last = ([0] if pixels[0] else []), ([pixels.size] if pixels[-1] else [])
    edges = np.concatenate((first, inner, last)).astype(np.int64) + x0 * height
    if not edges.size or edges[-1] != total:
        edges = np.append(edges, total)
    return np.diff(edges, prepend=0)


def decode(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool [H, W], of run lengths."""
    height, width = size
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T  # [H, W], a view of columns


def to_string(counts: np.ndarray) -> str:
    """pycocotools' compressed string."""
    characters = []
    for index, count in enumerate(counts.tolist()):
        rest = count - int(counts[index - 2]) if index > 2 else count
        more = True
        while more:
            digit = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if digit & 0x10 else 0)
            characters.append(chr((digit | 0x20 if more else digit) + 48))
    return "".join(characters)


def from_string(text: str) -> np.ndarray:
    """Run lengths of a compressed string. Raises ValueError where it ends within a number."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError(f"run-length string: expected a whole number at the end, got {text[-8:]!r}")
    return np.array(counts, np.int64)
