"""How far a run is: a line on stderr now and then, with frames per second and the time left.

progress = ProgressLines(total=2000, unit="frames")
progress.step()
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mask2edge.runtime.command_line import say

SECONDS_BETWEEN_LINES = 5.0


class ProgressLines:
    def __init__(self, total: int | None, unit: str = "frames", clock: Callable[[], float] = time.monotonic) -> None:
        """`total` None: nobody knows."""
        self.done = 0
        self._total = total
        self._unit = unit
        self._clock = clock
        self._said = self._started = clock()
        self._done_then = 0

    def step(self, dropped: int = 0) -> None:
        self.done += 1
        now = self._clock()
        if now - self._said < SECONDS_BETWEEN_LINES:
            return
        rate = (self.done - self._done_then) / (now - self._said)  # of late: a stream's beginning is long ago
        of = f" of {self._total}" if self._total else ""
        line = f"{self.done}{of} {self._unit}, {rate:.1f} {self._unit}/s"
        if self._total and self._total > self.done:
            seconds = (now - self._started) / self.done * (self._total - self.done)
            line += f", {seconds:.0f} s left"
        say(line + (f", {dropped} dropped" if dropped else ""))
        self._said, self._done_then = now, self.done
