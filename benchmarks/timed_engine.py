"""An engine that times itself, step by step, on images of ours or noise: what latency.py's contenders are.

    engine = open_engines([Path("a.engine"), Path("a.engine")], images=[], task=None, threads=2)[0]
    engine.run()          # {"preprocess": 1.2, "network": 30.1, "postprocess": 2.0, "total": 33.3} in milliseconds

The same engine may be named twice: it is opened twice, and its ratio to itself is what the measurement can tell apart.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mask2edge.benchmarks.artifact import calibration_of, sha256_of_artifact
from mask2edge.runtime.segmenter import Segmenter

STEPS = ("preprocess", "network", "postprocess", "total")


@dataclass
class TimedEngine:
    """An engine with images of any sizes, uint8 [H, W, 3] BGR, which batches take in turn."""

    path: Path
    name: str  # the path; "PATH (2)" where it was named before
    sha256: str
    segmenter: Segmenter
    images: Sequence[np.ndarray]
    task: str
    calibration: str  # of int8, how its ranges were found
    _turn: Iterator[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._turn = itertools.cycle(self.images)

    def first_batch(self) -> list[np.ndarray]:
        return list(itertools.islice(itertools.cycle(self.images), self.segmenter.spec.profile.opt[0]))

    @property
    def size(self) -> str:
        """HxW of the network's input, padded. An engine of several sizes has that of each image: "512x704, 512x928"."""
        profile = self.segmenter.spec.profile
        if profile.min[1:] == profile.max[1:]:
            return f"{profile.opt[1]}x{profile.opt[2]}"
        batches = [[image] for image in self.images] if profile.opt[0] == 1 else [self.first_batch()]
        shapes = {self.segmenter.prepare(batch)[0].shape[2:] for batch in batches}
        return ", ".join(f"{height}x{width}" for height, width in sorted(shapes))

    def run(self) -> dict[str, float]:
        """Milliseconds of each of STEPS, for the next batch.

        Where images and masks are worked on by the device, its own clock times the steps, transfers included, and their
        sum is less than the total, in which the host's part is.
        """
        images = list(itertools.islice(self._turn, self.segmenter.spec.profile.opt[0]))
        start = time.perf_counter()
        session = self.segmenter.session
        if getattr(session, "on_device", False):
            times: dict[str, float] = {}
            session.segment_async(images, self.task, times).result()
            return times | {"total": 1000 * (time.perf_counter() - start)}
        pixels, prepared = self.segmenter.prepare(images)
        ready = time.perf_counter()
        outputs = self.segmenter.session.run(pixels)
        done = time.perf_counter()
        self.segmenter.finish(outputs, prepared, self.task)
        end = time.perf_counter()
        moments = (ready - start, done - ready, end - done, end - start)
        return {step: 1000 * seconds for step, seconds in zip(STEPS, moments, strict=True)}


def open_engines(
    paths: Sequence[Path], images: Sequence[np.ndarray], task: str | None, threads: int | None
) -> list[TimedEngine]:
    """Engines at their profiles' best size and batch; without images, noise of that size. Raises InputError."""
    engines = []
    for place, path in enumerate(paths):
        segmenter = Segmenter.load(path, threads=threads)
        _, height, width = segmenter.spec.profile.opt
        before = paths[:place].count(path)
        name = f"{path} ({before + 1})" if before else str(path)
        pictures = images or [noise(height, width)]
        digest = sha256_of_artifact(path)  # of what was just opened: load() checked every file against spec.json
        calibration = calibration_of(path, segmenter.spec)
        engines.append(TimedEngine(path, name, digest, segmenter, pictures, segmenter.check_task(task), calibration))
    return engines


def noise(height: int, width: int) -> np.ndarray:
    """The same blurred noise each time, uint8 [H, W, 3]: some content at every scale."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), np.uint8)  # [h, w, 3]
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
