"""Many images through one engine, with everything at work at once: while the network runs on one image, the next is
read and prepared, and the masks of the one before are made.

    for frame in stream(segmenter, sorted(Path("photos").iterdir()), task="semantic"):
        print(frame.source, frame.error or frame.result.segments)

Results come in the order of the sources, each as soon as it is there. At most a few images are held at a time, however
many there are.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import read_image
from mask2edge.runtime.pictures import Picture
from mask2edge.runtime.preprocess import Prepared, check_image
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import ImageSession

Source: TypeAlias = Path | np.ndarray | Picture
READ, PREPROCESS, NETWORK, POSTPROCESS = STEPS = ("read_ms", "preprocess_ms", "network_ms", "postprocess_ms")
AHEAD = 3  # batches: one in each of the other steps, and one that waits for the network


@dataclass
class Frame:
    """One source with what became of it: a result, or the error that says why there is none."""

    source: Source
    image: np.ndarray | None = None  # uint8 [H, W, 3] BGR
    result: Segmentation | None = None
    error: InputError | None = None
    times: dict[str, float] = field(default_factory=dict)  # of STEPS; images of one batch share its time evenly


@dataclass
class _Batch:
    frames: list[Frame]
    pixels: np.ndarray | None = None  # [N, 3, H, W]
    prepared: list[Prepared] = field(default_factory=list)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def sound(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.error is None]


def stream(
    segmenter: Segmenter, sources: Iterable[Source], task: str | None = None, ahead: int = AHEAD
) -> Iterator[Frame]:
    """Frames in the order of `sources`: files, images as `cv2.imread` gives them, or pictures of a video. Task None is
    the model's default. `sources` are taken in a thread of their own.

    An engine made for batches gets them. `ahead`: batches under way beside those in the network; with 1 a camera's
    result is younger and less overlaps. A source that is no image has an error in its frame; the others go on. Raises
    InputError where the model cannot do the task.
    """
    task = segmenter.check_task(task)
    return _Stream(segmenter, task, ahead).frames(iter(sources))


class _Stream:
    """The three steps, each with a thread of its own; the network with one for each context of the engine."""

    def __init__(self, segmenter: Segmenter, task: str, ahead: int) -> None:
        self._segmenter = segmenter
        self._task = task
        self._ahead = ahead
        session = segmenter.session
        self._on_device = session if isinstance(session, ImageSession) and session.on_device else None
        self._contexts = self._on_device.contexts if self._on_device else 1

    def frames(self, sources: Iterator[Source]) -> Iterator[Frame]:
        with ExitStack() as stack:
            readers, runners, finishers = (ThreadPoolExecutor(size) for size in (1, self._contexts, 1))
            for pool in (finishers, runners, readers):
                stack.callback(pool.shutdown, cancel_futures=True)

            def submit() -> Future[_Batch]:
                ready = readers.submit(self._read, sources)
                ran = runners.submit(lambda: self._run(ready.result()))
                return finishers.submit(lambda: self._finish(ran.result()))

            # Where the sources wait for a camera, results that are there do not wait with them.
            pending = deque(submit() for _ in range(self._contexts + self._ahead))
            while (batch := pending.popleft().result()).frames:
                yield from batch.frames
                del batch  # its pictures are the caller's now
                pending.append(submit())

    def _read(self, sources: Iterator[Source]) -> _Batch:
        """The next batch, read and prepared; without frames where the sources have ended."""
        batch = _Batch([Frame(source) for source in itertools.islice(sources, self._segmenter.spec.profile.opt[0])])
        for frame in batch.frames:
            with _attempt([frame], READ):
                frame.image = _image_of(frame.source)
                check_image(frame.image)
        if batch.sound and self._on_device is None:
            with _attempt(batch.sound, PREPROCESS):
                images = [frame.image for frame in batch.sound if frame.image is not None]
                batch.pixels, batch.prepared = self._segmenter.prepare(images)
        return batch

    def _run(self, batch: _Batch) -> _Batch:
        frames = batch.sound
        if not frames:
            return batch
        with _attempt(frames, NETWORK):
            if self._on_device is not None:
                self._segment(self._on_device, frames)
            elif batch.pixels is not None:
                batch.outputs = self._segmenter.session.run(batch.pixels)
        return batch

    def _segment(self, session: ImageSession, frames: list[Frame]) -> None:
        """All three steps where the network is, timed there."""
        times: dict[str, float] = {}
        images = [frame.image for frame in frames if frame.image is not None]
        results = session.segment_async(images, self._task, times).result()
        for frame, result in zip(frames, results, strict=True):
            frame.result = result
            frame.times |= {f"{step}_ms": milliseconds / len(frames) for step, milliseconds in times.items()}

    def _finish(self, batch: _Batch) -> _Batch:
        frames = batch.sound
        if frames and self._on_device is None:
            with _attempt(frames, POSTPROCESS):
                results = self._segmenter.finish(batch.outputs, batch.prepared, self._task)
                for frame, result in zip(frames, results, strict=True):
                    frame.result = result
        return batch


def _image_of(source: Source) -> np.ndarray:
    if isinstance(source, Picture):
        return source.read()
    return read_image(source) if isinstance(source, Path) else source


@contextmanager
def _attempt(frames: list[Frame], step: str) -> Iterator[None]:
    """Notes the step's time, or the error that it ended with."""
    start = time.perf_counter()
    try:
        yield
    except InputError as error:
        for frame in frames:
            frame.error = error
    milliseconds = 1000 * (time.perf_counter() - start) / len(frames)
    for frame in frames:
        frame.times.setdefault(step, milliseconds)  # a device has timed itself
