"""Shares a session's lanes among callers and threads.

    pending = pool.submit(queue)     # queue(lane) puts work on the lane's stream and returns what reads its results
    value = pending.result()

Submitting never waits for ever: with no lane free, the oldest work is finished first and its result kept for whoever
asks for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import Device, DeviceError, current_if_possible, forget_locals
from mask2edge.runtime.network_lane import NetworkLane

Value = TypeVar("Value")


class Pending(Generic[Value]):
    """Work on its way through a lane."""

    def __init__(self, pool: LanePool, lane: NetworkLane, finish: Callable[[], Value]) -> None:
        self._pool = pool
        self._lane = lane
        self._finish: Callable[[], Value] | None = finish
        self._value: Value | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def result(self) -> Value:
        """Waits for the work. Raises what went wrong in it; may be called again."""
        self.collect()
        if self._error is not None:
            raise self._error
        return cast(Value, self._value)

    def collect(self) -> None:
        """Waits, keeps the outcome here, and gives the lane back."""
        with self._lock:
            if self._finish is None:
                return
            try:
                with current_if_possible(self._pool.device):
                    self._lane.synchronize()
                    self._value = self._finish()
            except BaseException as error:
                self._error = error
            finally:
                self._finish = None
                self._pool.give_back(self, self._lane)


class LanePool:
    def __init__(self, device: Device, lanes: Sequence[NetworkLane]) -> None:
        self.device = device
        self._free = list(lanes)
        self._count = len(lanes)
        self._under_way: deque[Pending[Any]] = deque()  # the oldest first
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, queue: Callable[[NetworkLane], Callable[[], Value]]) -> Pending[Value]:
        """Raises what `queue` raises, and InputError after `close`."""
        lane = self._take()
        try:
            with self.device.current():
                finish = queue(lane)
        except BaseException as error:
            forget_locals(error)
            with current_if_possible(self.device), contextlib.suppress(DeviceError):
                lane.synchronize()  # what was queued before the error still uses the lane's buffers
            self.give_back(None, lane)
            raise
        pending = Pending(self, lane, finish)
        with self._changed:
            self._under_way.append(pending)
            self._changed.notify_all()
        return pending

    def give_back(self, pending: Pending[Any] | None, lane: NetworkLane) -> None:
        with self._changed:
            if pending is not None and pending in self._under_way:
                self._under_way.remove(pending)
            self._free.append(lane)
            self._changed.notify_all()

    def close(self) -> None:
        """Finishes what is under way, in any thread; its results can still be asked for."""
        while True:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
                if len(self._free) == self._count:
                    return
                if not self._under_way:
                    self._changed.wait()
                    continue
                oldest = self._under_way[0]
            oldest.collect()

    def _take(self) -> NetworkLane:
        while True:
            with self._changed:
                if self._closed:
                    raise InputError("the engine was closed; load it again")
                if self._free:
                    return self._free.pop()
                if not self._under_way:  # another thread is queueing on the last lane
                    self._changed.wait()
                    continue
                oldest = self._under_way[0]
            oldest.collect()
