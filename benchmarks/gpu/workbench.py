"""Arrays to the GPU and back, and the time that launches take there.

    with open_device() as device, Workbench(device) as bench:
        source, target = bench.upload(array), bench.allocate(array.nbytes)
        launch(source, target, bench.stream)
        result, ms = bench.download(target, array.shape, array.dtype), bench.time(lambda: launch(…), repeat=50)

Everything is freed at the end of the `with`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np

from mask2edge.runtime.device_memory import Device, DeviceBuffer, Event, HostBuffer, Stream


class Workbench:
    def __init__(self, device: Device) -> None:
        self._device = device
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Workbench:
        self._stream = self._stack.enter_context(Stream(self._device))
        self.stream = self._stream.handle
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, of one at least."""
        return self._stack.enter_context(DeviceBuffer(self._device, max(size, 1))).address

    def upload(self, array: np.ndarray) -> int:
        """The address of a copy, which is there when this returns."""
        address = self.allocate(array.nbytes)
        if array.nbytes:
            with HostBuffer(self._device, array.nbytes) as host:
                host.array[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                self._device.copy_to_device(address, host.address, array.nbytes, self.stream)
                self._stream.synchronize()
        return address

    def download(self, address: int, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
        """A new array, once the stream is done."""
        size = math.prod(shape) * kind.itemsize
        if not size:
            return np.empty(shape, kind)
        with HostBuffer(self._device, size) as host:
            self._device.copy_to_host(host.address, address, size, self.stream)
            self._stream.synchronize()
            return host.array.view(kind).reshape(shape).copy()

    def time(self, launch: Callable[[], None], repeat: int) -> float:
        """Milliseconds of one launch: the mean of `repeat` in a row."""
        with Event(self._device) as start, Event(self._device) as end:
            start.record(self.stream)
            for _ in range(repeat):
                launch()
            end.record(self.stream)
            self._stream.synchronize()
            return float(end.ms_since(start)) / repeat
