"""What a network makes of a few images, as one picture: each image beside its overlay.

sheet = SamplePictures(validation_data, spec)(model)      # BGR uint8 [H, W, 3]
"""

from __future__ import annotations

import cv2
import numpy as np
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.torch_session import torch_segmenter
from mask2edge.train.validation import TASKS_BY_WEIGHT

COUNT = 4  # images
WIDTH = 480  # of one picture on the sheet, pixels


class SamplePictures:
    """Always the same images, spread over the data: a run's sheets show the same places. One that cannot be read is
    left out."""

    def __init__(self, data: Dataset, spec: ModelSpec, count: int = COUNT) -> None:
        self._data, self._spec = data, spec
        self._indices = sorted({round(n * (len(data) - 1) / max(1, count - 1)) for n in range(count)})
        self._task = next(task for task in TASKS_BY_WEIGHT if task in spec.tasks)

    def __call__(self, model: nn.Module) -> np.ndarray | None:
        """`model` in eval mode. BGR uint8 [H, 2 * WIDTH, 3]; None where none of the images can be read."""
        segmenter = torch_segmenter(model, self._spec)
        rows = []
        for index in self._indices:
            try:
                image = np.ascontiguousarray(self._data.image(index)[:, :, ::-1])  # [h, w, 3] BGR
            except InputError:
                continue  # the validation says it
            result = segmenter(image, task=self._task)
            rows.append(np.hstack([_at_width(image), _at_width(result.draw(image))]))  # [h', 2 * WIDTH, 3]
        return np.vstack(rows) if rows else None


def _at_width(image: np.ndarray) -> np.ndarray:
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    return cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
