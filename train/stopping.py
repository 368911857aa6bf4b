"""Ctrl-C and SIGTERM, noted instead of obeyed: the loop ends after the step that runs, and saves first.

with StopSignals() as stop:
    while stop.received is None: ...
"""

from __future__ import annotations

import signal
import time
from types import FrameType

PATIENCE = 1.0  # seconds; launchers forward a signal that the terminal or the batch system has sent as well


class StopSignals:
    """Between enter and exit, SIGINT and SIGTERM are noted; a second one, later than PATIENCE, interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._when = 0.0

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._when = number, time.monotonic()
        elif time.monotonic() - self._when > PATIENCE:
            raise KeyboardInterrupt
