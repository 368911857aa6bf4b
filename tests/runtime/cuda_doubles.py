"""A GPU that is none: CUDA's runtime API over host memory, with a journal and with errors on demand.

    machine = Machine(sm=87, integrated=True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(machine))

Device addresses are host addresses, so NumPy and kernels compiled for the host can work on them. Memory is poisoned
with NaN. Streams are lazy: nothing that is queued happens before somebody waits for it, so a result that is read too
early is wrong here too. What a real GPU would punish at some later time (freeing what is in use, use after freeing, a
graph whose context has changed) is noted in `violations` at once.

Enumerations, handle types and constants are the real binding's; that every function has its name and parameters is
checked by test_doubles.py.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

real = pytest.importorskip("cuda.bindings.runtime", reason="the doubles are made after cuda-python: pip install it")

POISON = 0xFF  # a NaN in every float type, -1 in integers
ALIGNED = 256


class Machine:
    """What the doubles of one GPU share."""

    def __init__(self, sm: int = 87, integrated: bool = False, fail_at: int | None = None) -> None:
        self.sm = sm
        self.integrated = integrated
        self.fail_at = fail_at  # the number of the call that fails, from 0
        self.calls = 0
        self.failed = ""  # the name of the call that did
        self.journal: list[str] = []
        self.violations: list[str] = []
        self.memory: dict[int, tuple[str, int, np.ndarray]] = {}  # address -> kind ("device", "host"), size, storage
        self.freed: list[np.ndarray] = []  # kept, so that no address comes twice and late accesses are seen
        self.streams: dict[int, list[Callable[[], None]]] = {}  # handle -> what waits to be done
        self.captures: dict[int, list[Callable[[], None]]] = {}  # stream -> what is being captured
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, float | None] = {}
        self.objects: dict[str, int] = {"runtime": 0, "engine": 0, "context": 0}  # TensorRT's, alive
        self._handles = itertools.count(0x1000)

    def fails(self, name: str) -> bool:
        """Notes a call; whether it is the one that is to fail."""
        self.journal.append(name)
        number, self.calls = self.calls, self.calls + 1
        if number == self.fail_at:
            self.failed = name
            return True
        return False

    def leaks(self) -> list[str]:
        """Everything that is still there."""
        counts = {
            "device memory": sum(kind == "device" for kind, _, _ in self.memory.values()),
            "host memory": sum(kind == "host" for kind, _, _ in self.memory.values()),
            "stream": len(self.streams), "graph": len(self.graphs), "executable graph": len(self.executables),
            "event": len(self.events), "capture": len(self.captures), **self.objects,
        }  # fmt: skip
        return [f"{count} {name}" for name, count in counts.items() if count]

    def handle(self) -> int:
        return next(self._handles)

    def allocate(self, kind: str, size: int) -> int:
        storage = np.full(size + ALIGNED, POISON, np.uint8)
        address = (storage.ctypes.data + ALIGNED - 1) // ALIGNED * ALIGNED
        self.memory[address] = (kind, size, storage)
        return address

    def release(self, kind: str, address: int) -> None:
        found = self.memory.pop(address, None)
        if found is None or found[0] != kind:
            self.violations.append(f"freed {kind} memory that is none")
        else:
            self.freed.append(found[2])

    def check(self, address: int, size: int, *kinds: str) -> None:
        """Notes an access outside of what is allocated. On an integrated GPU the device sees host memory too."""
        allowed = {*kinds, *(["host"] if self.integrated and "device" in kinds else [])}
        for start, (kind, length, _) in list(self.memory.items()):  # other threads allocate meanwhile
            if start <= address and address + size <= start + length and kind in allowed:
                return
        self.violations.append(f"access to {size} bytes that are no {' or '.join(sorted(allowed))} memory")

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        if stream not in self.streams:
            self.violations.append("work for a stream that is none")
        else:
            self.captures.get(stream, self.streams[stream]).append(work)

    def finish(self, stream: int) -> None:
        waiting, self.streams[stream] = self.streams[stream], []
        for work in waiting:
            work()


def view(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class CudaDouble:
    """The functions of cuda.bindings.runtime that the runtime calls: each returns (error, results…)."""

    _cudaSuccess = real.cudaError_t.cudaSuccess
    cudaError_t = real.cudaError_t
    cudaDeviceAttr = real.cudaDeviceAttr
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode
    cudaHostAllocPortable = real.cudaHostAllocPortable
    cudaHostAllocMapped = real.cudaHostAllocMapped
    cudaStreamNonBlocking = real.cudaStreamNonBlocking
    cudaEventDefault = real.cudaEventDefault

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _start(self, name: str, error: str = "cudaErrorUnknown") -> Any:
        """The error that the call is to return, or None."""
        return getattr(real.cudaError_t, error) if self._machine.fails(name) else None

    def cudaGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return real.cudaGetErrorName(error)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        error = self._start("cudaGetDeviceCount", "cudaErrorInsufficientDriver")
        return (error, None) if error else (self._cudaSuccess, 1)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (self._start("cudaSetDevice", "cudaErrorDevicesUnavailable") or self._cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        error = self._start("cudaGetDeviceProperties")
        return (error or self._cudaSuccess, SimpleNamespace(name=b"Pretend GPU\0\0", totalGlobalMem=8 << 30))

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, ...]:
        error = self._start("cudaDeviceGetAttribute")
        values = {
            "ComputeCapabilityMajor": self._machine.sm // 10, "ComputeCapabilityMinor": self._machine.sm % 10,
            "Integrated": int(self._machine.integrated), "CanMapHostMemory": 1, "MultiProcessorCount": 16,
            "ClockRate": 1_300_000, "MemoryClockRate": 3_199_000, "GlobalMemoryBusWidth": 256,
        }  # fmt: skip
        return (error, None) if error else (self._cudaSuccess, values[attr.name.removeprefix("cudaDevAttr")])

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        error = self._start("cudaMalloc", "cudaErrorMemoryAllocation")
        return (error, None) if error else (self._cudaSuccess, self._machine.allocate("device", size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        # As CUDA does where an earlier launch went wrong: the memory is gone, and the error is reported here.
        error = self._start("cudaFree")
        self._machine.release("device", devPtr)
        return (error or self._cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        error = self._start("cudaHostAlloc", "cudaErrorMemoryAllocation")
        return (error, None) if error else (self._cudaSuccess, self._machine.allocate("host", size))

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        error = self._start("cudaFreeHost")
        self._machine.release("host", ptr)
        return (error or self._cudaSuccess,)

    def cudaHostGetDevicePointer(self, pHost: int, flags: int) -> tuple[Any, ...]:
        error = self._start("cudaHostGetDevicePointer")
        self._machine.check(pHost, 1, "host")
        return (error, None) if error else (self._cudaSuccess, pHost)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaMemcpyAsync")
        if error:
            return (error,)
        to_device = kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice

        def copy() -> None:
            self._machine.check(dst, count, "device" if to_device else "host")
            self._machine.check(src, count, "host" if to_device else "device")
            view(dst, count)[:] = view(src, count)

        self._machine.queue(stream, copy)
        return (self._cudaSuccess,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaMemsetAsync")
        if error:
            return (error,)

        def fill() -> None:
            self._machine.check(devPtr, count, "device")
            view(devPtr, count)[:] = value

        self._machine.queue(stream, fill)
        return (self._cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        error = self._start("cudaStreamCreateWithFlags")
        if error:
            return (error, None)
        handle = self._machine.handle()
        self._machine.streams[handle] = []
        return self._cudaSuccess, real.cudaStream_t(handle)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaStreamDestroy")
        if self._machine.streams.pop(stream, ["none"]):
            self._machine.violations.append("destroyed a stream that is none, or has work queued")
        return (error or self._cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaStreamSynchronize", "cudaErrorLaunchFailure")
        self._machine.finish(stream)  # with an error too: the work is over, and its results are worth nothing
        return (error or self._cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        error = self._start("cudaEventCreateWithFlags")
        if error:
            return (error, None)
        handle = self._machine.handle()
        self._machine.events[handle] = None
        return self._cudaSuccess, real.cudaEvent_t(handle)

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        error = self._start("cudaEventDestroy")
        del self._machine.events[event]
        return (error or self._cudaSuccess,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaEventRecord")
        if error:
            return (error,)
        self._machine.queue(stream, lambda: self._machine.events.update({event: time.perf_counter()}))
        return (self._cudaSuccess,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        error = self._start("cudaEventElapsedTime")
        first, last = self._machine.events[start], self._machine.events[end]
        if error or first is None or last is None:
            return (error or real.cudaError_t.cudaErrorNotReady, None)
        return self._cudaSuccess, 1000 * (last - first)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        error = self._start("cudaStreamBeginCapture", "cudaErrorStreamCaptureUnsupported")
        if not error:
            self._machine.captures[stream] = []
        return (error or self._cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaStreamEndCapture", "cudaErrorStreamCaptureInvalidated")
        work = self._machine.captures.pop(stream)
        if error:
            return (error, None)
        handle = self._machine.handle()
        self._machine.graphs[handle] = work
        return self._cudaSuccess, real.cudaGraph_t(handle)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        error = self._start("cudaGraphInstantiate")
        if error:
            return (error, None)
        handle = self._machine.handle()
        self._machine.executables[handle] = self._machine.graphs[graph]
        return self._cudaSuccess, real.cudaGraphExec_t(handle)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any, ...]:
        error = self._start("cudaGraphLaunch")
        if error:
            return (error,)
        for work in self._machine.executables[graphExec]:
            self._machine.queue(stream, work)
        return (self._cudaSuccess,)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        error = self._start("cudaGraphDestroy")
        del self._machine.graphs[graph]
        return (error or self._cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any, ...]:
        error = self._start("cudaGraphExecDestroy")
        own = self._machine.executables.pop(graphExec)
        if any(work in own for stream in self._machine.streams.values() for work in stream):
            self._machine.violations.append("destroyed an executable graph that is queued")
        return (error or self._cudaSuccess,)
