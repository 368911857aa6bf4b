"""A progress bar with the time left, on stderr; without tqdm (a Jetson's runtime) a line now and then.

for index in progress(range(101), "images"): ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from mask2edge.runtime.command_line import say

SECONDS_BETWEEN_LINES = 5.0
Item = TypeVar("Item")


def progress(items: Sequence[Item], unit: str) -> Iterator[Item]:
    """Yields the items."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from _lines(items, unit)
    else:
        seconds = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES  # a log file keeps every update
        yield from tqdm(items, unit=f" {unit}", dynamic_ncols=True, mininterval=seconds)  # on stderr


def _lines(items: Sequence[Item], unit: str) -> Iterator[Item]:
    started = spoken = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - spoken > SECONDS_BETWEEN_LINES:
            left = (now - started) / done * (len(items) - done)
            say(f"{done} of {len(items)} {unit}, {left:.0f} s left")
            spoken = now
        yield item
