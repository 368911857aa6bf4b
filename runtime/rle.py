"""COCO's run-length encoding of masks: runs of 0 and 1 down the columns, as counts or as pycocotools' string.

    counts = encode(mask)                               # mask: bool [H, W]
    {"size": [H, W], "counts": to_string(counts)}       # what COCO's results and pycocotools take

The string writes each count (from the third on, its difference from the count two before) in base 32, low digit
first; bit 5 says that more digits follow, and 48 is added to make a printable character (maskApi.c of pycocotools).
"""

from __future__ import annotations

import numpy as np


def encode(mask: np.ndarray, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Lengths of the runs of a mask [H, W], column by column, beginning with zeros (0 if the first pixel is set).

    `box` (x0, y0, x1, y1), x1 and y1 exclusive, holds every set pixel and spares a look at the rest.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box or (0, 0, width, height)
    columns = np.zeros((x1 - x0, y1 - y0 + 2), np.int8)  # [columns, rows + 2], a zero at both ends of each column
    columns[:, 1:-1] = mask[y0:y1, x0:x1].T
    steps = np.diff(columns, axis=1)  # [columns, rows + 1]: +1 where a run begins, -1 behind its end
    start_column, start_row = np.nonzero(steps == 1)
    end_column, end_row = np.nonzero(steps == -1)
    starts = (start_column + x0).astype(np.int64) * height + start_row + y0
    ends = (end_column + x0).astype(np.int64) * height + end_row + y0
    # A run that reaches the bottom goes on at the top of the next column.
    goes_on = starts[1:] == ends[:-1]
    starts = starts[np.concatenate(([True], ~goes_on))] if starts.size else starts
    ends = ends[np.concatenate((~goes_on, [True]))] if ends.size else ends
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    total = height * width
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
