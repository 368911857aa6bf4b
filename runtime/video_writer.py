"""Pictures into a video file, which is there once it is whole.

    with VideoFile(Path("overlay.mp4")) as video:
        video.write(picture, rate=25.0)

The first picture gives the video its size; others are scaled to fit, on black. OpenCV writes it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.runtime.video_source import USUAL_RATE, quiet, require_utf8

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}


class VideoFile:
    def __init__(self, path: Path, codec: str | None = None) -> None:
        """`codec`: four characters; None: what is usual in the file's format. Raises InputError, before any work."""
        if path.suffix.lower() not in CODECS:
            raise InputError(f"--video: expected a file name ending in {', '.join(CODECS)}, got {path}")
        require_utf8(str(path.absolute()))
        if path.exists() and not path.is_file():
            raise InputError(f"--video: expected the name of a file to write, got {path}, which is none")
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise InputError(f"--video: expected a folder to write {path} into, got {parent}, which is none")
        self.path = path
        self.frames = 0
        self._codec = codec or CODECS[path.suffix.lower()]
        if len(self._codec) != 4 or not self._codec.isascii():
            raise InputError(f"--codec: expected four characters such as mp4v, got {self._codec!r}")
        self._files = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # width, height
        with tempfile.TemporaryDirectory() as folder:
            self._open(Path(folder) / f"probe{path.suffix}", USUAL_RATE, (64, 64)).release()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file and gives it its name; after an error there is none."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._files.__exit__(kind, error, trace)

    def write(self, picture: np.ndarray, rate: float | None = None, times: int = 1) -> None:
        """uint8 [H, W, 3] BGR, shown for `times` frames; `rate`, frames per second, counts at the first picture."""
        if self._writer is None:
            height, width = picture.shape[:2]
            self._size = (width + width % 2, height + height % 2)  # most codecs want even sizes
            temporary = self._files.enter_context(whole_file(self.path))
            self._writer = self._open(temporary, rate or USUAL_RATE, self._size)
        fitted = _fit(picture, self._size)
        for _ in range(times):
            self._writer.write(fitted)
        self.frames += times

    def _open(self, path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
        quiet()
        with _silence():
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*self._codec), rate, size)
        if not writer.isOpened():
            raise InputError(
                f"--video {self.path}: OpenCV here cannot write {self._codec!r} of {size[0]}x{size[1]} into "
                f"{self.path.suffix}; try --codec MJPG and a name ending in .avi"
            )
        return writer


@contextmanager
def _silence() -> Iterator[None]:
    """What OpenCV prints of a codec that it does not know goes past its log level, straight to stderr's descriptor."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] at the video's (width, height): at the top left, on black."""
    width, height = size
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    if not (picture.shape[1] <= width <= picture.shape[1] + 1 and picture.shape[0] <= height <= picture.shape[0] + 1):
        new_size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        picture = cv2.resize(picture, new_size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas
