"""The newest frame of a camera, video file or stream, read by a thread of its own; older ones are dropped.

    with NewestFrame("0") as source:
        number, frame = source.newest      # 17, uint8 [H, W, 3] BGR

A file plays at its own speed, again and again. A camera or stream that is lost is opened anew, at growing intervals,
for as long as it takes.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.video_source import Sampling, VideoSource

STALE_SECONDS = 10.0  # without a frame
PAUSE = 1.0  # seconds before a file that has become unreadable is tried again
SAMPLING = Sampling(drop=True, retries=None)


class NewestFrame:
    def __init__(self, source: str) -> None:
        """`source`: a file, a camera's index, an address or a GStreamer pipeline. Raises InputError where it cannot be
        opened."""
        self._video = VideoSource(source)
        self.label = self._video.label
        is_name = not (self._video.is_camera or self._video.is_pipeline or "://" in source)
        if is_name and not Path(source).is_file():
            raise InputError(
                f"--source {self.label}: expected a video file, camera index, address or pipeline, got no such file"
            )
        self._video.probe()
        self._newest: tuple[int, np.ndarray | None] = (0, None)
        self._seen = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="live source", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> tuple[int, np.ndarray | None]:
        """The frame's number, from 1, and the frame, uint8 [H, W, 3] BGR; (0, None) before the first."""
        return self._newest

    @property
    def state(self) -> str:
        """ "live", or "lost": no frame for some seconds, for it is being opened anew, or its driver hangs."""
        return "live" if time.monotonic() - self._seen < STALE_SECONDS else "lost"

    def close(self) -> None:
        """Ends the thread; may be called again."""
        self._stop.set()
        self._thread.join(timeout=5)  # a camera's driver may hang; the thread does not outlive the process

    def __enter__(self) -> NewestFrame:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            before = self._newest[0]
            try:
                for picture in self._video.frames(SAMPLING, ended=self._stop.is_set):
                    if picture.image is not None and not self._stop.is_set():
                        self._newest = (self._newest[0] + 1, picture.image)
                        self._seen = time.monotonic()
            except InputError:  # a file that was there has gone
                pass
            if self._newest[0] == before:
                self._stop.wait(PAUSE)
