"""One thread that runs the engine, and a line of callers before it that is only so long.

    queue = InferenceQueue(waiting=8)
    value = await queue.run(work)          # raises QueueFull at once where the line is full

The event loop goes on meanwhile. Work whose caller has gone is dropped from the line; work that has begun is finished,
and keeps its place until then, so that the memory in use has a bound whatever the callers do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")


class QueueFull(Exception):
    """As many callers are waiting as may."""


class InferenceQueue:
    def __init__(self, waiting: int) -> None:
        """`waiting`: how many may wait while one is at work."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._most = waiting + 1
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Callers at work or waiting."""
        return self._held

    @property
    def is_full(self) -> bool:
        return self._held >= self._most

    async def run(self, work: Callable[[], Value]) -> Value:
        """The value of `work()`, or what it raises. Raises QueueFull."""
        with self._lock:
            if self.is_full:
                raise QueueFull
            self._held += 1
        try:
            future = self._executor.submit(work)
        except RuntimeError as error:  # shut down
            self._give_back()
            raise QueueFull from error
        future.add_done_callback(self._give_back)  # also where it was cancelled before it began
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Waits for the work at hand, and drops what is in line."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _give_back(self, _: Future | None = None) -> None:
        with self._lock:
            self._held -= 1
