"""Ctrl-C and SIGTERM, noted instead of obeyed: sources end, what is under way is finished, and files are closed.

with StopSignals() as stop:
    for frame in frames: ...        # whoever makes the frames looks at stop.received; so does the loop of training
exit_code = 128 + stop.received
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

PATIENCE = 1.0  # seconds; launchers forward a signal that the terminal or the batch system has sent as well


class StopSignals:
    """Between enter and exit, SIGINT and SIGTERM are noted; a second one, later than PATIENCE, interrupts at once.

    Outside the main thread, where Python has no signals, nothing is ever received.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._when = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._when = number, time.monotonic()
        elif time.monotonic() - self._when > PATIENCE:
            raise KeyboardInterrupt
