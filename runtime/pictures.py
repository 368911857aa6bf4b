"""One picture on its way through the pipeline: an image file, or a frame of a video or stream.

picture = Picture(source="film.mp4", name="film-000012", image=frame, index=12, seconds=0.4)
picture.read()
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import read_image


@dataclass(frozen=True, eq=False)
class Picture:
    source: str  # as reports name it
    name: str  # of its files, without suffix
    path: Path | None = None  # of an image file, read when it is wanted
    image: np.ndarray | None = None  # uint8 [H, W, 3] BGR, of a frame
    image_id: int | None = None  # COCO's; None: numbered as written
    index: int | None = None  # of a frame in its video, from 0, those left out included
    seconds: float | None = None  # since the video's start, or a stream's first frame
    rate: float | None = None  # frames per second of the video it is from
    error: InputError | None = None  # why there is no picture
    droppable: bool = False  # a newer one may take its place

    def read(self) -> np.ndarray:
        """uint8 [H, W, 3] BGR. Raises InputError."""
        if self.error is not None:
            raise self.error
        if self.image is not None:
            return self.image
        if self.path is None:
            raise InputError(f"{self.source}: no image")
        return read_image(self.path)
