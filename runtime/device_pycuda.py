"""`Device` through pycuda: the CUDA driver API, in the primary context, which TensorRT uses too. For a Jetson.

    device = PyCuda()
    print(device.properties)

pycuda hands out objects that free what they stand for when they go; they are kept here under their addresses until
the caller frees them. Its releases (2026.1 among them) cannot capture graphs, so the network is queued call by call.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mask2edge.runtime.device_memory import (
    LOOK_CLOSER,
    OUT_OF_MEMORY,
    Device,
    DeviceError,
    DeviceProperties,
    host_view,
)
from mask2edge.runtime.session import first_line

DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES shows
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; pycuda has no name for it


class PyCuda(Device):
    binding = "pycuda"
    supports_graphs = False

    def __init__(self) -> None:
        """Raises ImportError where the package is absent, DeviceError where it cannot reach a GPU."""
        self._cuda: Any = importlib.import_module("pycuda.driver")
        self._call("start CUDA", self._cuda.init)
        if not self._call("count the GPUs", self._cuda.Device.count):
            raise DeviceError("the CUDA driver sees no GPU")
        self._gpu = self._call("select the GPU", self._cuda.Device, DEVICE)
        self._context = self._call("open the GPU's context", self._gpu.retain_primary_context)
        self._owned: dict[int, Any] = {}  # address or handle -> pycuda's object
        self._numbers = itertools.count(1)  # events have no address of their own
        self._events: dict[int, Any] = {}
        self._closed = False
        try:
            with self.current():
                self.properties = self._read_properties()
        except DeviceError:
            self.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._call("select the GPU", self._context.push)
        try:
            yield
        finally:
            self._call("leave the GPU", self._cuda.Context.pop)

    def malloc(self, size: int) -> int:
        allocation = self._call(f"allocate {size} bytes on the GPU", self._cuda.mem_alloc, size)
        return self._keep(int(allocation), allocation)

    def free(self, address: int) -> None:
        self._call("free memory of the GPU", self._owned.pop(address).free)

    def host_alloc(self, size: int) -> int:
        flags = self._cuda.host_alloc_flags
        array = self._call(
            f"allocate {size} page-locked bytes",
            self._cuda.pagelocked_empty, size, np.uint8, mem_flags=flags.PORTABLE | flags.DEVICEMAP,
        )  # fmt: skip
        return self._keep(array.ctypes.data, array.base)

    def host_free(self, address: int) -> None:
        self._call("free page-locked memory", self._owned.pop(address).free)

    def mapped_address(self, address: int) -> int:
        return int(self._call("map host memory", self._owned[address].get_device_pointer))

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        source_view = host_view(source, size)
        self._call("copy to the GPU", self._cuda.memcpy_htod_async, target, source_view, self._owned[stream])

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        target_view = host_view(target, size)
        self._call("copy from the GPU", self._cuda.memcpy_dtoh_async, target_view, source, self._owned[stream])

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        self._call(
            "fill memory of the GPU", self._cuda.memset_d8_async, address, value, size, stream=self._owned[stream]
        )

    def create_stream(self) -> int:
        stream = self._call("make a stream", self._cuda.Stream, NON_BLOCKING)
        return self._keep(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._owned[stream]  # pycuda ends it with its object

    def synchronize(self, stream: int) -> None:
        self._call("wait for the GPU", self._owned[stream].synchronize)

    def create_event(self) -> int:
        number = next(self._numbers)
        self._events[number] = self._call("make an event", self._cuda.Event)
        return number

    def destroy_event(self, event: int) -> None:
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._call("record an event", self._events[event].record, self._owned[stream])

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("read the time between two events", self._events[end].time_since, self._events[start]))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # It stays the thread's current context, as it would with the runtime API: pycuda takes no pop with this.
            self._call("close the GPU's context", self._context.detach)

    def _keep(self, handle: int, item: Any) -> int:
        self._owned[handle] = item
        return handle

    def _read_properties(self) -> DeviceProperties:
        names = self._cuda.device_attribute
        major, minor = self._call("read the GPU's version", self._gpu.compute_capability)

        def read(attribute: Any) -> int:
            return int(self._call("read the GPU's properties", self._gpu.get_attribute, attribute))

        return DeviceProperties(
            name=str(self._call("read the GPU's name", self._gpu.name)),
            sm=10 * int(major) + int(minor),
            integrated=bool(read(names.INTEGRATED) and read(names.CAN_MAP_HOST_MEMORY)),
            total_memory=int(self._call("read the GPU's memory", self._gpu.total_memory)),
            multiprocessors=read(names.MULTIPROCESSOR_COUNT),
            clock_khz=read(names.CLOCK_RATE),
            memory_clock_khz=read(names.MEMORY_CLOCK_RATE),
            memory_bus_bits=read(names.GLOBAL_MEMORY_BUS_WIDTH),
        )

    def _call(self, purpose: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except self._cuda.Error as error:  # its message is "cuMemAlloc failed: out of memory"
            advice = OUT_OF_MEMORY if isinstance(error, self._cuda.MemoryError) else LOOK_CLOSER
            raise DeviceError(f"could not {purpose}: {first_line(error)}; {advice}") from error
