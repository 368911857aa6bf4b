"""Frames of a video file, a camera, a network stream or a GStreamer pipeline, by OpenCV's VideoCapture.

    video = VideoSource("rtsp://camera/1")
    video.probe()
    for picture in video.frames(Sampling(every=2)):
        picture.index, picture.seconds, picture.image

A live source that disappears is opened again, after 1, 2, 4, … seconds, until `retries` attempts in a row have failed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError, say
from mask2edge.runtime.images import VIDEO_SUFFIXES
from mask2edge.runtime.pictures import Picture

LONGEST_WAIT = 30.0  # seconds between two attempts
SANE_RATES = (1.0, 240.0)  # frames per second; streams also claim 0 and 90,000
USUAL_RATE = 25.0
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads it once, when FFmpeg is first used: silent
FILE_SCHEMES = ("http", "https", "file")  # that a video file may lie behind, by its suffix


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are wanted."""

    every: int = 1  # each Nth
    most_per_second: float | None = None  # of the video's time; a live source's is the clock's
    drop: bool | None = None  # newest wins; None: of live sources
    retries: int | None = 5  # attempts in a row, for a live source that has disappeared; None: without end


class VideoSource:
    def __init__(self, address: str) -> None:
        """`address`: a file, a camera's index or device, one with "://", or a GStreamer pipeline (it has " ! ")."""
        self.address = address
        self.is_pipeline = " ! " in address
        self.is_camera = address.isdecimal() or is_device(address)
        is_file = not (self.is_pipeline or self.is_camera) and "://" not in address
        self.live = not (is_file or _is_remote_file(address))
        self.rate = USUAL_RATE  # frames per second, once probed
        self.count = 0  # frames in the file as its header says; 0: unknown
        self._capture: cv2.VideoCapture | None = None

    @property
    def label(self) -> str:
        """The address without user and password."""
        return re.sub(r"://[^/\s@]*@", "://", self.address)

    @property
    def stem(self) -> str:
        """Of its frames' files."""
        if self.is_camera:
            return f"camera-{Path(self.address).name}"
        if self.is_pipeline:
            return "pipeline"
        if "://" in self.address:
            parts = urlsplit(self.label)
            return re.sub(r"[^A-Za-z0-9]+", "-", f"{parts.hostname or ''}{parts.path}").strip("-")[:60] or "stream"
        return Path(self.address).stem

    def drops(self, sampling: Sampling) -> bool:
        """Whether the newest frame wins."""
        return self.live if sampling.drop is None else sampling.drop

    def probe(self) -> None:
        """Opens it once, to know that it is there. Raises InputError."""
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        if SANE_RATES[0] <= rate <= SANE_RATES[1]:
            self.rate = float(rate)
        if self.live:
            self._capture = capture  # a camera takes seconds to open again
            return
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 1e9 else 0
        has_frames = capture.grab()
        capture.release()
        if not has_frames:
            raise InputError(f"{self.label}: expected a video, got a file with no frame that OpenCV can decode")

    def frames(
        self, sampling: Sampling, name: str | None = None, ended: Callable[[], bool] = lambda: False
    ) -> Iterator[Picture]:
        """In order. A live source that is lost for good ends in a picture with an error."""
        name = name or self.stem
        drop = self.drops(sampling)
        wanted = _Wanted(sampling)
        start: float | None = None
        for index, image in enumerate(self._images(sampling.retries, ended)):
            if isinstance(image, InputError):
                yield Picture(self.label, f"{name}-{index:06d}", error=image, index=index)
                return
            start = time.monotonic() if start is None else start
            seconds = time.monotonic() - start if self.live else index / self.rate
            if not wanted(index, seconds):
                continue
            if drop and not self.live:  # as if it were a camera: else all but the last would be dropped
                time.sleep(max(0.0, start + seconds - time.monotonic()))
            yield Picture(
                self.label, f"{name}-{index:06d}", image=image, index=index, seconds=round(seconds, 3),
                rate=self.rate / sampling.every, droppable=drop,
            )  # fmt: skip

    def _images(self, retries: int | None, ended: Callable[[], bool]) -> Iterator[np.ndarray | InputError]:
        """Frames, uint8 [H, W, 3] BGR, across reconnections; at the end an error, where it was lost."""
        attempt, read = 0, 0
        capture = self._capture or self._open()
        self._capture = None
        try:
            while not ended():
                try:
                    found, image = capture.read()
                except cv2.error:  # a backend's failure is an end like others
                    found, image = False, None
                if found and image is not None:
                    attempt, read = 0, read + 1
                    yield image
                    continue
                if not self.live:
                    if read < self.count:
                        say(f"{self.label}: ended after {read} frames, its header says {self.count}")
                    return
                capture.release()
                if attempt == retries:
                    yield InputError(
                        f"{self.label}: lost after {read} frames, and {retries} attempts to open it again failed"
                    )
                    return
                attempt += 1
                seconds = min(LONGEST_WAIT, 2.0 ** min(attempt - 1, 10))
                if retries is not None:
                    say(f"{self.label}: no frame; attempt {attempt} of {retries} to open it again in {seconds:.0f} s")
                elif attempt == 1:
                    say(f"{self.label}: no frame; it is opened again until it answers")
                _sleep(seconds, ended)
                capture = self._capture_of_address()
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = self._capture_of_address()
        if capture.isOpened():
            return capture
        if self.is_camera:
            raise InputError(f"{self.address}: no such camera, or another program has it; name another index")
        if self.is_pipeline:
            raise InputError(f"{self.label}: GStreamer cannot open this pipeline; does it end in appsink?")
        if "://" in self.address:
            raise InputError(f"{self.label}: the stream cannot be opened; check the address and that it is on")
        raise InputError(f"{self.label}: expected a video, got a file that OpenCV cannot open; is it damaged?")

    def _capture_of_address(self) -> cv2.VideoCapture:
        quiet()
        require_utf8(self.address)
        if self.is_camera:
            if self.address.isdecimal():
                return cv2.VideoCapture(int(self.address))
            return cv2.VideoCapture(self.address, cv2.CAP_V4L2)  # FFmpeg would read the device as a file
        if not self.is_pipeline:
            return cv2.VideoCapture(self.address)
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise InputError(f"{self.label}: this OpenCV was built without GStreamer; name a file, camera or address")
        return cv2.VideoCapture(self.address, cv2.CAP_GSTREAMER)


class _Wanted:
    """Each Nth frame, and of those not more than so many in a second."""

    def __init__(self, sampling: Sampling) -> None:
        self._every = sampling.every
        self._gap = 1 / sampling.most_per_second if sampling.most_per_second else 0.0  # seconds
        self._due = 0.0

    def __call__(self, index: int, seconds: float) -> bool:
        if index % self._every or seconds < self._due - 1e-6:
            return False
        # Counted from when the frame was due, so that 10 of 25 frames are 10, not each third.
        self._due = (self._due if seconds - self._due < self._gap else seconds) + self._gap
        return True


def require_utf8(name: str) -> None:
    """Raises InputError for the name of a video that is none: OpenCV crashes on it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: expected the name of a video in UTF-8, which OpenCV wants; rename it") from error


def is_device(name: str) -> bool:
    """Whether it is a device of this machine, such as /dev/video0."""
    try:
        return stat.S_ISCHR(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def quiet() -> None:
    """OpenCV writes lines of its own to stderr; ours says what went wrong."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _is_remote_file(address: str) -> bool:
    parts = urlsplit(address) if "://" in address and " ! " not in address else None
    return parts is not None and parts.scheme in FILE_SCHEMES and parts.path.lower().endswith(VIDEO_SUFFIXES)


def _sleep(seconds: float, ended: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not ended() and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
