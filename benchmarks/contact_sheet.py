"""One picture to look at: each photograph beside its overlay, with the classes' names and colours below.

sheet = contact_sheet([("china.jpg", image, overlay)], engine_spec.model.labels)
cv2.imwrite("artifacts/demo/contact_sheet.jpg", sheet)
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mask2edge.runtime.spec import Label

COLUMN = 480  # width of one picture in pixels
MARGIN = 12
TITLE = 26  # height of a row's title
LEGEND_ROW = 26
SWATCH = 16
FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE = 0.5
MAX_HEIGHT = 720  # a portrait photograph is shown no higher
BLACK = (0, 0, 0)


def contact_sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], labels: Sequence[Label]) -> np.ndarray:
    """BGR uint8 [height, width, 3] from rows of (title, image, overlay), both BGR uint8 [H, W, 3]."""
    width = 2 * COLUMN + 3 * MARGIN
    parts = [_row(title, image, overlay) for title, image, overlay in rows]
    parts.append(_legend(labels, width))
    return np.concatenate(parts, axis=0)  # [height, width, 3]


def _row(title: str, image: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    left, right = _fit(image), _fit(overlay)
    height = TITLE + max(left.shape[0], right.shape[0]) + MARGIN
    row = np.full((height, 2 * COLUMN + 3 * MARGIN, 3), 255, np.uint8)  # [h, w, 3]
    cv2.putText(row, _ascii(title), (MARGIN, TITLE - 8), FONT, FONT_SCALE, BLACK, 1, cv2.LINE_AA)
    for x, picture in ((MARGIN, left), (COLUMN + 2 * MARGIN, right)):
        row[TITLE : TITLE + picture.shape[0], x : x + picture.shape[1]] = picture
    return row


def _fit(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(COLUMN / width, MAX_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _legend(labels: Sequence[Label], width: int) -> np.ndarray:
    """Swatch and name of every class, in as many lines as they need."""
    places, x, line = [], MARGIN, 0
    for label in labels:
        (text, _), _ = cv2.getTextSize(_ascii(label.name), FONT, FONT_SCALE, 1)
        entry = SWATCH + 6 + text + 16
        if x > MARGIN and x + entry > width:
            x, line = MARGIN, line + 1
        places.append((label, x, line * LEGEND_ROW + MARGIN))
        x += entry
    legend = np.full(((line + 1) * LEGEND_ROW + MARGIN, width, 3), 255, np.uint8)  # [h, w, 3]
    for label, left, top in places:
        red, green, blue = label.color
        cv2.rectangle(legend, (left, top), (left + SWATCH, top + SWATCH), (blue, green, red), cv2.FILLED)
        cv2.rectangle(legend, (left, top), (left + SWATCH, top + SWATCH), BLACK, 1)
        at = (left + SWATCH + 6, top + SWATCH - 3)
        cv2.putText(legend, _ascii(label.name), at, FONT, FONT_SCALE, BLACK, 1, cv2.LINE_AA)
    return legend


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV's own fonts have no other letters
