"""What the server answers for one image: a JSON object.

    answer(segmenter, cv2.imread("street.jpg"), Options(task="panoptic")).body

{"task", "width", "height", "segments": [{"id", "label_id", "label", "is_thing", "score", "area", "box": [x0, y0, x1,
y1], "color": [r, g, b], "rle": {"size": [H, W], "counts"}}, …], "times": {"decode_ms", …}}: boxes in pixels with x1 and
y1 exclusive, areas in pixels, RLE as pycocotools has it, times in milliseconds.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.drawing import segment_color
from mask2edge.runtime.segment_entries import entry
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.tracking import Tracker

JPEG_SIDE = 65_500  # the longest that the format has
UNSURE = 0.5  # an overlay leaves out instances below: most of the best hundred are chance


@dataclass(frozen=True)
class Options:
    """What a request asks for; None is the engine's own."""

    task: str | None = None
    object_threshold: float | None = None  # panoptic: the least class score of a segment
    overlap_threshold: float | None = None  # panoptic: the least part of a mask that stays in view
    min_score: float = 0.0  # segments below it are left out of the answer; instances above all are many and unsure
    overlay: bool = False  # adds the drawn picture


@dataclass(frozen=True)
class Answer:
    body: bytes  # JSON
    times: dict[str, float]  # milliseconds


class EngineFailure(Exception):
    """The engine did not do its work on an image that it should take."""


def answer(
    segmenter: Segmenter,
    image: np.ndarray,
    options: Options,
    times: dict[str, float] | None = None,
    extra: dict[str, Any] | None = None,
    with_image: bool = False,
    tracker: Tracker | None = None,
) -> Answer:
    """`image`: uint8 [H, W, 3] BGR. `with_image` adds it to the answer as "image", a JPEG in base64. With `tracker`
    segments keep the ids, and so the colours, that they had in the frames before; classes do so by themselves.

    `times` are those of steps before, `extra` joins the answer as it is. Raises EngineFailure; InputError where the
    picture is too long for a JPEG, or the model cannot do the task.
    """
    chosen = segmenter.with_thresholds(options.object_threshold, options.overlap_threshold)
    task = segmenter.check_task(options.task)
    try:
        result, steps = chosen.timed(image, task)
    except InputError as error:
        raise EngineFailure(str(error)) from error
    start = time.perf_counter()
    if tracker is not None and task != "semantic":
        result = tracker.update(result)
    content: dict[str, Any] = {"task": result.task, "width": result.size[1], "height": result.size[0]}
    content["segments"] = [
        entry(segment) | {"color": [int(value) for value in segment_color(result, segment)]}
        for segment in result.segments
        if segment.score >= options.min_score
    ]
    if options.overlay:
        content["overlay"] = jpeg_base64(result.draw(image, min_score=max(UNSURE, options.min_score)))
    if with_image:
        content["image"] = jpeg_base64(image)
    all_times = {**(times or {}), **steps, "encode_ms": 1000 * (time.perf_counter() - start)}
    content["times"] = {step: round(milliseconds, 2) for step, milliseconds in all_times.items()}
    return Answer(json.dumps(content | (extra or {}), separators=(",", ":")).encode(), all_times)


def jpeg_base64(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] BGR as the text of a JPEG file. Raises InputError where it is too long for one."""
    if max(picture.shape) > JPEG_SIDE:
        raise InputError(f"image: expected at most {JPEG_SIDE} pixels a side for a JPEG, got {picture.shape[:2]}")
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(data.tobytes()).decode()
