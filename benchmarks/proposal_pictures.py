"""Pictures of region proposals: the objects, and the regions of each source that cover them best, side by side.

cv2.imwrite("proposals.png", picture(image, objects, {"learned queries": first, "layer 9": last}))
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping

import cv2
import numpy as np

TITLE = 24  # height of a column's title in pixels
GAP = 6  # between columns
LONGEST_EDGE = 640  # of a column; larger images are shrunk
LEAST_WIDTH = 256  # of a column, whose title it has to hold; narrower images are enlarged by a whole number
GOLDEN_RATIO = 0.6180339887  # steps of it round the colour circle never come close to one another
FONT = cv2.FONT_HERSHEY_SIMPLEX


def picture(image: np.ndarray, objects: np.ndarray, proposals: Mapping[str, np.ndarray]) -> np.ndarray:
    """BGR uint8 [height, width, 3] of columns: the objects, then each source's best proposal for every object.

    image: BGR uint8 [H, W, 3]; objects: bool [n, H, W]; proposals: name -> bool [m, H, W]. An object and its proposal
    have one colour, and a column's title the mean of their IoU.
    """
    columns = [_column("objects", image, objects)]
    for name, masks in proposals.items():
        chosen, iou = best_proposals(objects, masks)
        columns.append(_column(f"{name}: mean IoU {iou.mean():.2f}", image, masks[chosen]))
    height = columns[0].shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)  # [h, gap, 3]
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], 1)


def best_proposals(objects: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each object the index of the mask of the highest IoU, and that IoU: [n], [n]; several may share a mask."""
    first, second = (x.reshape(len(x), -1).astype(np.float32) for x in (objects, masks))  # [n, HW], [m, HW]
    overlap = first @ second.T  # [n, m]
    union = first.sum(1)[:, None] + second.sum(1)[None] - overlap  # [n, m]
    iou = overlap / np.maximum(union, 1)
    return iou.argmax(1), iou.max(1)


def _column(title: str, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    overlay = image.astype(np.float32) * 0.6
    for number, mask in enumerate(masks):
        color = 255 * np.array(colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.8, 1.0)[::-1], np.float32)  # [3] BGR
        overlay[mask] = 0.4 * overlay[mask] + 0.6 * color
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)  # [H, W]
        overlay[mask & ~inner] = color
    scale = min(1.0, LONGEST_EDGE / max(image.shape[:2]))
    if scale == 1 and image.shape[1] < LEAST_WIDTH:
        scale = min(math.ceil(LEAST_WIDTH / image.shape[1]), LONGEST_EDGE // max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    shown = cv2.resize(overlay.round().astype(np.uint8), size, interpolation=method)
    column = np.full((shown.shape[0] + TITLE, shown.shape[1], 3), 255, np.uint8)  # [h, w, 3]
    column[TITLE:] = shown
    cv2.putText(column, title, (2, TITLE - 8), FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return column
