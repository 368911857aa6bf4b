"""Images with their segments, side by side in one picture: what a data set looks like to the network.

sheet = contact_sheet(data, indices=range(12))      # BGR uint8 [H, W, 3]
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset
from mask2edge.train.labels import distinct_color

TILE, CAPTION, GAP, COLUMNS = 320, 18, 6, 4  # pixels; tiles a row
NAMED = 0.01  # a segment of at least this part of the image gets its class's name
CROWD = (128, 128, 128)
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4


def contact_sheet(data: Dataset, indices: Sequence[int]) -> np.ndarray:
    """One tile for each image: as it is above, with its segments below. Images that cannot be read say so."""
    tiles = [_tile(data, index) for index in indices]
    blank = np.zeros_like(tiles[0])
    rows = []
    for start in range(0, len(tiles), COLUMNS):
        row = tiles[start : start + COLUMNS]
        rows.append(np.concatenate(row + [blank] * (min(COLUMNS, len(tiles)) - len(row)), 1))
    return np.concatenate(rows)  # [H, W, 3]


def overlay(image: np.ndarray, annotation: Annotation, labels: Sequence[Label]) -> np.ndarray:
    """RGB uint8 [H, W, 3] with every segment filled and outlined: things each in a colour, stuff in its class's."""
    shown = image.copy()
    for segment, label_id in enumerate(annotation.label_ids):
        mask = annotation.mask(segment)  # [H, W]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        label = labels[label_id]
        color = np.array(
            CROWD if annotation.crowd[segment] else distinct_color(segment) if label.is_thing else label.color
        )
        inside = mask[box]
        part = shown[box]
        part[inside] = (0.5 * part[inside] + 0.5 * color).astype(np.uint8)
        padded = np.pad(inside, 1).astype(np.uint8)
        edge = inside & (cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1] == 0)
        part[edge] = color
    return shown


def _tile(data: Dataset, index: int) -> np.ndarray:
    tile = np.full((2 * TILE + CAPTION + GAP, TILE + GAP, 3), 24, np.uint8)
    name = data.name(index)
    try:
        image, annotation = data[index]
    except InputError:
        _write(tile, f"{name}: unreadable", (4, TILE // 2))
        return tile
    factor = TILE / max(image.shape[:2])
    size = tuple(max(1, round(length * factor)) for length in image.shape[:2])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    segments = overlay(image, annotation, data.labels)
    for top, picture in ((0, image), (TILE, segments)):
        tile[top : top + size[0], : size[1]] = cv2.resize(picture, size[::-1], interpolation=method)[:, :, ::-1]
    for segment, (x, y) in _places(annotation):
        _write(tile, data.labels[annotation.label_ids[segment]].name, (int(x * factor), TILE + int(y * factor)))
    count = f"{len(annotation)} segments" if len(annotation) != 1 else "1 segment"
    _write(tile, f"{name}: {count}, {image.shape[0]}x{image.shape[1]}", (2, 2 * TILE + CAPTION - 5))
    return tile


def _places(annotation: Annotation) -> list[tuple[int, tuple[int, int]]]:
    """The larger segments, each with the (x, y) of its innermost pixel, where its name does not lie on another."""
    places = []
    for segment in range(len(annotation)):
        mask = annotation.mask(segment)  # [H, W]
        if mask.mean() >= NAMED:
            depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            places.append((segment, (int(x) - 1, int(y) - 1)))
    return places


def _write(tile: np.ndarray, text: str, place: tuple[int, int]) -> None:
    (width, _), _ = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    place = max(0, min(place[0], tile.shape[1] - width - 2)), place[1]
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, place, FONT, FONT_SCALE, color, thickness, cv2.LINE_AA)
