"""The newest frame of a camera, video file or stream, read by a thread of its own; older ones are dropped.

    with NewestFrame("0") as source:
        number, frame = source.newest      # 17, uint8 [H, W, 3] BGR

A file plays at its own speed, again and again. A camera or stream that is lost is opened anew, at growing intervals.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError, say

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two attempts to open a source anew
STALE_SECONDS = 10.0  # without a frame
DEFAULT_RATE = 25.0  # frames a second of a file that does not say


class NewestFrame:
    def __init__(self, source: str) -> None:
        """`source`: a file, a camera's index, or an address. Raises InputError where it cannot be opened."""
        self._source = source
        self.label = re.sub(r"://[^/\s@]*@", "://", source)  # without user and password
        self._newest: tuple[int, np.ndarray | None] = (0, None)
        self._state, self._seen = "live", time.monotonic()
        self._stop = threading.Event()
        self._is_file = not source.isdecimal() and "://" not in source
        if self._is_file and not Path(source).is_file():
            raise InputError(f"--source {self.label}: expected a video file, camera index or address, got no such file")
        capture = self._open()
        if capture is None:
            raise InputError(
                f"--source {self.label}: OpenCV cannot open it; name a video file, the index of a connected camera, or "
                "an address that answers"
            )
        self._thread = threading.Thread(target=self._read, args=(capture,), name="live source", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> tuple[int, np.ndarray | None]:
        """The frame's number, from 1, and the frame, uint8 [H, W, 3] BGR; (0, None) before the first."""
        return self._newest

    @property
    def state(self) -> str:
        """ "live", or "lost": it is being opened anew, or its driver hangs."""
        return self._state if time.monotonic() - self._seen < STALE_SECONDS else "lost"

    def close(self) -> None:
        """Ends the thread; may be called again."""
        self._stop.set()
        self._thread.join(timeout=5)  # a camera's driver may hang; the thread does not outlive the process

    def __enter__(self) -> NewestFrame:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> cv2.VideoCapture | None:
        capture = cv2.VideoCapture(int(self._source) if self._source.isdecimal() else self._source)
        if not self._is_file:
            with contextlib.suppress(cv2.error):  # not every backend knows it
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if capture.isOpened():
            return capture
        capture.release()
        return None

    def _read(self, capture: cv2.VideoCapture | None) -> None:
        wait = FIRST_WAIT
        while not self._stop.is_set():
            frames = 0 if capture is None else self._play(capture)
            if self._stop.is_set():
                break
            if not (self._is_file and frames):
                if self._state == "live":
                    say(f"--source {self.label}: lost; opening it anew")
                self._state = "lost"
                wait = FIRST_WAIT if frames else min(2 * wait, LONGEST_WAIT)
                self._stop.wait(wait)
            capture = self._open()

    def _play(self, capture: cv2.VideoCapture) -> int:
        """Reads until the end, and returns how many frames there were."""
        rate = capture.get(cv2.CAP_PROP_FPS) if self._is_file else 0.0
        period = 1 / (rate if 0 < rate <= 240 else DEFAULT_RATE) if self._is_file else 0.0
        due, count = time.monotonic(), 0
        with contextlib.suppress(cv2.error):  # a backend's failure is an end like others
            while not self._stop.is_set():
                good, frame = capture.read()
                if not good:
                    break
                self._newest = (self._newest[0] + 1, frame)
                self._state, self._seen = "live", time.monotonic()
                count += 1
                due = max(due + period, time.monotonic() - period)
                self._stop.wait(max(0.0, due - time.monotonic()))
        capture.release()
        return count
