"""pycuda.driver over the pretended GPU: written by hand after its documentation and the source of its 2026.1 release.

    monkeypatch.setitem(sys.modules, "pycuda.driver", PyCudaDouble(machine))

pycuda cannot be installed without a CUDA driver's library, so nothing compares this with the real one. Handles and
errors are as there: objects that free themselves, and exceptions of `Error`'s family.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_doubles import Machine, view


class PyCudaDouble:
    class Error(Exception):
        """Base of all."""

    class LogicError(Error):
        pass

    class MemoryError(Error):  # noqa: A001 - pycuda's name
        pass

    host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)
    device_attribute = SimpleNamespace(
        INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="map", MULTIPROCESSOR_COUNT="multiprocessors",
        CLOCK_RATE="clock", MEMORY_CLOCK_RATE="memory", GLOBAL_MEMORY_BUS_WIDTH="bus",
    )  # fmt: skip

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stack: list[object] = []  # contexts that were pushed
        self.contexts = 0  # retained
        driver = self

        def start(name: str, message: str = "invalid argument", error: type = driver.LogicError) -> None:
            if machine.fails(name):
                raise error(f"{name} failed: {message}")

        def start_inside(name: str, message: str = "invalid argument", error: type = driver.LogicError) -> None:
            if not driver._stack:
                machine.violations.append(f"{name} without a context")
            start(name, message, error)

        class Context:
            def push(self) -> None:
                start("cuCtxPushCurrent")
                driver._stack.append(self)

            @staticmethod
            def pop() -> None:
                driver._stack.pop()

            def detach(self) -> None:
                driver.contexts -= 1

        class Device:
            def __init__(self, number: int) -> None:
                start("cuDeviceGet")

            @staticmethod
            def count() -> int:
                start("cuDeviceGetCount")
                return 1

            def retain_primary_context(self) -> Context:
                start("cuDevicePrimaryCtxRetain")
                driver.contexts += 1
                return Context()

            def name(self) -> str:
                return "Pretend GPU"

            def compute_capability(self) -> tuple[int, int]:
                return machine.sm // 10, machine.sm % 10

            def total_memory(self) -> int:
                return 8 << 30

            def get_attribute(self, attr: str) -> int:
                start("cuDeviceGetAttribute")
                return {
                    "integrated": int(machine.integrated), "map": 1, "multiprocessors": 16, "clock": 1_300_000,
                    "memory": 3_199_000, "bus": 256,
                }[attr]  # fmt: skip

        class Allocation:
            def __init__(self, kind: str, size: int) -> None:
                self._kind = kind
                self._address: int | None = machine.allocate(kind, size)

            def __int__(self) -> int:
                assert self._address is not None
                return self._address

            def free(self) -> None:
                if self._address is None:
                    raise driver.LogicError("free failed: invalid handle")
                address, self._address = self._address, None
                machine.release(self._kind, address)

            def get_device_pointer(self) -> int:
                return int(self)

            def __del__(self) -> None:
                if self._address is not None:
                    self.free()

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                self.handle = 0  # for __del__
                start_inside("cuStreamCreate")
                self.handle = machine.handle()
                machine.streams[self.handle] = []

            def synchronize(self) -> None:
                machine.finish(self.handle)
                start_inside("cuStreamSynchronize", "unspecified launch failure")

            def __del__(self) -> None:
                machine.streams.pop(self.handle, None)

        class Event:
            def __init__(self, flags: int = 0) -> None:
                self._handle = 0
                start_inside("cuEventCreate")
                self._handle = machine.handle()
                machine.events[self._handle] = None

            def record(self, stream: Any = None) -> Any:
                start_inside("cuEventRecord")
                machine.queue(stream.handle, lambda: machine.events.update({self._handle: time.perf_counter()}))
                return self

            def time_since(self, event: Any) -> float:
                start_inside("cuEventElapsedTime")
                first, last = machine.events[event._handle], machine.events[self._handle]
                if first is None or last is None:
                    raise driver.LogicError("cuEventElapsedTime failed: device not ready")
                return 1000 * (last - first)

            def __del__(self) -> None:
                machine.events.pop(self._handle, None)

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self._allocation, self._start = Allocation, start_inside
        self._start_anywhere = start

    def init(self, flags: int = 0) -> None:
        self._start_anywhere("cuInit", "no CUDA-capable device is detected")

    def mem_alloc(self, size: int) -> Any:
        self._start("cuMemAlloc", "out of memory", self.MemoryError)
        return self._allocation("device", size)

    def pagelocked_empty(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        self._start("cuMemHostAlloc", "out of memory", self.MemoryError)
        allocation = self._allocation("host", shape * np.dtype(dtype).itemsize)
        array = view(int(allocation), shape)
        return SimpleNamespace(base=allocation, ctypes=array.ctypes)  # an array whose base owns the memory

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any = None) -> None:
        self._start("cuMemcpyHtoDAsync")

        def copy() -> None:
            self._machine.check(dest, src.nbytes, "device")
            self._machine.check(src.ctypes.data, src.nbytes, "host")
            view(dest, src.nbytes)[:] = src

        self._machine.queue(stream.handle, copy)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any = None) -> None:
        self._start("cuMemcpyDtoHAsync")

        def copy() -> None:
            self._machine.check(src, dest.nbytes, "device")
            self._machine.check(dest.ctypes.data, dest.nbytes, "host")
            dest[:] = view(src, dest.nbytes)

        self._machine.queue(stream.handle, copy)

    def memset_d8_async(self, dest: int, data: int, size: int, stream: Any = None) -> None:
        self._start("cuMemsetD8Async")

        def fill() -> None:
            self._machine.check(dest, size, "device")
            view(dest, size)[:] = data

        self._machine.queue(stream.handle, fill)
