"""The course of an engine under load without a pause: does it become slower as the device becomes hot?

    times = sustain(engine.run, seconds=300)           # run after run, nothing between them
    course([t["total"] for t in times])                # {"tenths_ms": [ten medians], "first_ms", "last_ms", "ratio"}

A device that throttles has a ratio (last tenth over first) above 1. The first tenth has to be measured on a device that
is cool: the warm-up before it should be short.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from mask2edge.benchmarks.timing import Run

PARTS = 10


def sustain(run: Run, seconds: float, least: int = PARTS) -> list[dict[str, float]]:
    """Runs until `seconds` have passed, `least` times at least and never less than PARTS, without a pause."""
    times: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(times) < max(least, PARTS) or time.perf_counter() - started < seconds:
        times.append(run())
    return times


def course(milliseconds: Sequence[float]) -> dict[str, Any]:
    """The median of each tenth of the runs, in their order, and the last over the first. At least PARTS runs."""
    count = len(milliseconds)
    bounds = [count * part // PARTS for part in range(PARTS + 1)]
    tenths = [statistics.median(milliseconds[a:b]) for a, b in itertools.pairwise(bounds)]
    return {
        "tenths_ms": [round(value, 3) for value in tenths],
        "first_ms": round(tenths[0], 3),
        "last_ms": round(tenths[-1], 3),
        "ratio": round(tenths[-1] / tenths[0], 4),
    }
