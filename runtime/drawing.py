"""Pictures of results: the image under its segments' colours, with outlines and names.

overlay = draw(result, image)          # or result.draw(image)
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.preprocess import check_image
from mask2edge.runtime.results import Segment, Segmentation

GOLDEN_RATIO = 0.6180339887  # steps of it round the colour circle never come close to one another
LOOKED_AT = 200  # pixels of a segment's length, for the place of its name
SMALLEST_NAMED_PART = 0.002  # of the image; a name on less would hide what it names


def draw(
    result: Segmentation,
    image: np.ndarray,
    opacity: float = 0.5,
    outlines: bool = True,
    names: bool = True,
    min_score: float = 0.5,
) -> np.ndarray:
    """A new uint8 [H, W, 3] BGR picture. Raises InputError where `image` is not the one that was segmented."""
    check_image(image)
    if image.shape[:2] != result.size:
        raise InputError(f"draw: expected an image of {result.size} (height, width), got {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise InputError(f"draw: expected an opacity of 0 to 1, got {opacity}")
    shown = [segment for segment in result.segments if result.task != "instance" or segment.score >= min_score]
    # A look-up table from ids to colours paints all segments in one pass; its fourth channel says what is covered.
    palette = np.zeros((int(result.label_map.max(initial=0)) + 1, 4), np.uint8)  # [ids, 4] BGRA
    for segment in shown:
        palette[segment.id] = *segment_color(result, segment)[::-1], 255
    paint = palette.view(np.uint32)[:, 0][result.label_map].view(np.uint8).reshape(*result.size, 4)  # [H, W, 4]
    covered = cv2.extractChannel(paint, 3)  # [H, W]
    overlay = image.copy()
    blend = cv2.addWeighted(image, 1 - opacity, cv2.cvtColor(paint, cv2.COLOR_BGRA2BGR), opacity, 0)  # [H, W, 3]
    cv2.copyTo(blend, covered, overlay)
    if outlines:
        cv2.copyTo(np.full_like(overlay, 255), _borders(result.label_map).view(np.uint8) & covered, overlay)
    if names:
        _write_names(overlay, result, shown)
    return overlay


def segment_color(result: Segmentation, segment: Segment) -> tuple[int, int, int]:
    """RGB: things a colour each, everything else its class's."""
    if result.task == "semantic" or (result.task == "panoptic" and not segment.is_thing):
        return result.labels[segment.label_id].color
    red, green, blue = colorsys.hsv_to_rgb((segment.id * GOLDEN_RATIO) % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _borders(label_map: np.ndarray) -> np.ndarray:
    """bool [H, W]: the pixels whose right or lower neighbour belongs to another segment."""
    borders = np.zeros(label_map.shape, bool)
    borders[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    borders[:-1] |= label_map[:-1] != label_map[1:]
    return borders


def _write_names(overlay: np.ndarray, result: Segmentation, shown: list[Segment]) -> None:
    height, width = result.size
    scale = max(0.35, min(height, width) / 1100)
    thickness = max(1, round(scale * 1.5))
    for segment in shown:
        x0, y0, x1, y1 = segment.box
        visible = (result.label_map[y0:y1, x0:x1] == segment.id).astype(np.uint8)  # [h, w] of the box
        if np.count_nonzero(visible) < SMALLEST_NAMED_PART * height * width:
            continue
        x, y = _deepest(visible)
        x, y = x + x0, y + y0
        (text_width, text_height), baseline = cv2.getTextSize(segment.label, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        left = int(np.clip(x - text_width // 2, 0, max(0, width - text_width)))
        bottom = int(np.clip(y + text_height // 2, text_height, max(text_height, height - baseline)))
        cv2.rectangle(
            overlay, (left, bottom - text_height - 2), (left + text_width, bottom + baseline), (0, 0, 0), cv2.FILLED
        )
        cv2.putText(
            overlay,
            segment.label,
            (left, bottom),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 255, 255),
            thickness,
            cv2.LINE_AA,
        )


def _deepest(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) in the uint8 [h, w] mask, far from its border and from the image's: inside it whatever its shape."""
    step = max(1, max(mask.shape) // LOOKED_AT)
    if step > 1 and not mask[::step, ::step].any():
        step = 1
    framed = cv2.copyMakeBorder(mask[::step, ::step], 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return step * int(x), step * int(y)
