"""`Device` through NVIDIA's cuda-python: the CUDA runtime API.

    device = CudaPython()
    print(device.properties)

The module is called cuda.bindings.runtime from cuda-python 12.6 on and cuda.cudart before.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from mask2edge.runtime.device_memory import LOOK_CLOSER, OUT_OF_MEMORY, Device, DeviceError, DeviceProperties

DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES shows


class CudaPython(Device):
    binding = "cuda-python"
    supports_graphs = True

    def __init__(self) -> None:
        """Raises ImportError where the package is absent, DeviceError where it cannot reach a GPU."""
        self._cuda: Any = _runtime_module()
        if not self._call("count the GPUs", self._cuda.cudaGetDeviceCount):
            raise DeviceError("the CUDA driver sees no GPU")
        self._call("select the GPU", self._cuda.cudaSetDevice, DEVICE)
        self.properties = self._read_properties()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        # The runtime API's device belongs to the thread, and is the first one anyway unless somebody changed it.
        self._call("select the GPU", self._cuda.cudaSetDevice, DEVICE)
        yield

    def malloc(self, size: int) -> int:
        return int(self._call(f"allocate {size} bytes on the GPU", self._cuda.cudaMalloc, size))

    def free(self, address: int) -> None:
        self._call("free memory of the GPU", self._cuda.cudaFree, address)

    def host_alloc(self, size: int) -> int:
        flags = self._cuda.cudaHostAllocPortable | self._cuda.cudaHostAllocMapped
        return int(self._call(f"allocate {size} page-locked bytes", self._cuda.cudaHostAlloc, size, flags))

    def host_free(self, address: int) -> None:
        self._call("free page-locked memory", self._cuda.cudaFreeHost, address)

    def mapped_address(self, address: int) -> int:
        return int(self._call("map host memory", self._cuda.cudaHostGetDevicePointer, address, 0))

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("copy to the GPU", self._cuda.cudaMemcpyAsync, target, source, size, kind, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("copy from the GPU", self._cuda.cudaMemcpyAsync, target, source, size, kind, stream)

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        self._call("fill memory of the GPU", self._cuda.cudaMemsetAsync, address, value, size, stream)

    def create_stream(self) -> int:
        # Not the blocking kind: that one waits for whatever others do on the default stream.
        flags = self._cuda.cudaStreamNonBlocking
        return int(self._call("make a stream", self._cuda.cudaStreamCreateWithFlags, flags))

    def destroy_stream(self, stream: int) -> None:
        self._call("end a stream", self._cuda.cudaStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        self._call("wait for the GPU", self._cuda.cudaStreamSynchronize, stream)

    def create_event(self) -> int:
        return int(self._call("make an event", self._cuda.cudaEventCreateWithFlags, self._cuda.cudaEventDefault))

    def destroy_event(self, event: int) -> None:
        self._call("end an event", self._cuda.cudaEventDestroy, event)

    def record(self, event: int, stream: int) -> None:
        self._call("record an event", self._cuda.cudaEventRecord, event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("read the time between two events", self._cuda.cudaEventElapsedTime, start, end))

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: another's allocation meanwhile would spoil a global capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("begin to capture a graph", self._cuda.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        return int(self._call("capture a graph", self._cuda.cudaStreamEndCapture, stream))

    def instantiate(self, graph: int) -> int:
        return int(self._call("instantiate a graph", self._cuda.cudaGraphInstantiate, graph, 0))

    def launch(self, executable: int, stream: int) -> None:
        self._call("launch a graph", self._cuda.cudaGraphLaunch, executable, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("free a graph", self._cuda.cudaGraphDestroy, graph)

    def destroy_executable(self, executable: int) -> None:
        self._call("free an executable graph", self._cuda.cudaGraphExecDestroy, executable)

    def close(self) -> None:
        """Nothing to do: the process's primary context stays, others may be using it."""

    def _read_properties(self) -> DeviceProperties:
        described = self._call("read the GPU's properties", self._cuda.cudaGetDeviceProperties, DEVICE)
        return DeviceProperties(
            name=described.name.decode(errors="replace").rstrip("\0"),
            sm=10 * self._attribute("ComputeCapabilityMajor") + self._attribute("ComputeCapabilityMinor"),
            integrated=bool(self._attribute("Integrated") and self._attribute("CanMapHostMemory")),
            total_memory=int(described.totalGlobalMem),
            multiprocessors=self._attribute("MultiProcessorCount"),
            clock_khz=self._attribute("ClockRate", optional=True),
            memory_clock_khz=self._attribute("MemoryClockRate", optional=True),
            memory_bus_bits=self._attribute("GlobalMemoryBusWidth", optional=True),
        )

    def _attribute(self, name: str, optional: bool = False) -> int:
        # Attributes, not the properties' fields: CUDA 13 took the clocks out of those.
        attribute = getattr(self._cuda.cudaDeviceAttr, f"cudaDevAttr{name}", None)
        if optional and attribute is None:
            return 0
        try:
            return int(self._call(f"read the GPU's {name}", self._cuda.cudaDeviceGetAttribute, attribute, DEVICE))
        except DeviceError:
            if optional:
                return 0
            raise

    def _call(self, purpose: str, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """The function's result. cuda-python returns (error, results…) and raises nothing."""
        error, *results = function(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            name = self._error_name(error)
            advice = OUT_OF_MEMORY if name == "cudaErrorMemoryAllocation" else LOOK_CLOSER
            raise DeviceError(f"could not {purpose}: {name} (CUDA error {int(error)}); {advice}")
        return results[0] if results else None

    def _error_name(self, error: Any) -> str:
        found, name = self._cuda.cudaGetErrorName(error)
        return name.decode() if found == self._cuda.cudaError_t.cudaSuccess else "unknown error"


def _runtime_module() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
            raise
        return importlib.import_module("cuda.cudart")
