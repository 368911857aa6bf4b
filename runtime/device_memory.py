"""Memory, streams and graphs of an NVIDIA GPU, each freed exactly once. TensorRT is never touched here.

    print(cuda_obstacle() or "a GPU is there")
    with open_device() as device, DeviceBuffer(device, 1 << 20) as buffer, Stream(device) as stream:
        device.fill(buffer.address, 0, buffer.size, stream.handle)
        stream.synchronize()

`open_device` finds a Python binding of CUDA: cuda-python, or pycuda where that one does not work;
MASK2EDGE_CUDA_BINDING=cuda-python or =pycuda chooses. Addresses and handles are plain integers everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import first_line

BINDING_VARIABLE = "MASK2EDGE_CUDA_BINDING"
# name -> (module, class); in the order in which they are tried
BINDINGS = {
    "cuda-python": ("mask2edge.runtime.device_cuda_python", "CudaPython"),
    "pycuda": ("mask2edge.runtime.device_pycuda", "PyCuda"),
}

# What to do next, at the end of a DeviceError's line.
OUT_OF_MEMORY = "free memory on the GPU, use fewer contexts, or build the engine for smaller sizes"
LOOK_CLOSER = "start again, and if it stays so, run benchmarks/gpu_check.py to see what else fails"


class DeviceError(InputError):
    """The GPU, its driver or TensorRT refused. The message says what was being done, and CUDA's name of the error."""


def cuda_obstacle() -> str:
    """One clause: what stands between this machine and a GPU; "" where nothing does.

    Asks the driver by its own library: TensorRT's runtime ends the process where there is none.
    """
    name = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no CUDA driver was found ({name})"
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error:
        return f"the CUDA driver does not work (error {error})"
    return "" if count.value else "the CUDA driver sees no GPU"


@dataclass(frozen=True)
class DeviceProperties:
    name: str
    sm: int  # compute capability: 87 for 8.7
    integrated: bool  # shares its memory with the CPU and can map it, as a Jetson does
    total_memory: int  # bytes
    multiprocessors: int
    clock_khz: int  # this and the two below: 0 where the driver does not say
    memory_clock_khz: int
    memory_bus_bits: int

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second that the memory could move at best (two transfers a clock); 0 where unknown."""
        return 2 * self.memory_clock_khz * 1e3 * self.memory_bus_bits / 8


class Device(ABC):
    """One GPU through one Python binding. Every method raises DeviceError where CUDA reports an error.

    Calls that queue work return at once. They are for a thread in which the device is current: in `with device`, or in
    `with device.current()` in any thread.
    """

    binding: str
    supports_graphs: bool
    properties: DeviceProperties

    @abstractmethod
    def current(self) -> contextlib.AbstractContextManager[None]:
        """Makes the device the calling thread's own for the length of a `with`; may be nested."""

    @abstractmethod
    def malloc(self, size: int) -> int: ...
    @abstractmethod
    def free(self, address: int) -> None: ...
    @abstractmethod
    def host_alloc(self, size: int) -> int:
        """Page-locked host memory, which copies without a detour; mapped where the device can."""

    @abstractmethod
    def host_free(self, address: int) -> None: ...
    @abstractmethod
    def mapped_address(self, address: int) -> int:
        """Where the device sees what `host_alloc` gave."""

    @abstractmethod
    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None: ...
    @abstractmethod
    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None: ...
    @abstractmethod
    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        """Sets `size` bytes to `value`."""

    @abstractmethod
    def create_stream(self) -> int: ...
    @abstractmethod
    def destroy_stream(self, stream: int) -> None: ...
    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Waits for everything queued on the stream."""

    @abstractmethod
    def create_event(self) -> int: ...
    @abstractmethod
    def destroy_event(self, event: int) -> None: ...
    @abstractmethod
    def record(self, event: int, stream: int) -> None: ...
    @abstractmethod
    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have been reached."""

    # Only where `supports_graphs`:
    def begin_capture(self, stream: int) -> None:
        raise NotImplementedError

    def end_capture(self, stream: int) -> int:
        """What the stream took since `begin_capture`, as a graph."""
        raise NotImplementedError

    def instantiate(self, graph: int) -> int:
        """An executable graph; `graph` itself is not needed any longer."""
        raise NotImplementedError

    def launch(self, executable: int, stream: int) -> None:
        raise NotImplementedError

    def destroy_graph(self, graph: int) -> None:
        raise NotImplementedError

    def destroy_executable(self, executable: int) -> None:
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """After everything that was made with the device."""

    def __enter__(self) -> Device:
        """The device, current in this thread until the end of the `with`, which also closes it."""
        self._entered = contextlib.ExitStack()
        self._entered.callback(self.close)
        try:
            self._entered.enter_context(self.current())
        except DeviceError:
            self._entered.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()


def open_device() -> Device:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses). Raises InputError where none can be had."""
    wished = os.environ.get(BINDING_VARIABLE)
    if wished and wished not in BINDINGS:
        raise InputError(f"{BINDING_VARIABLE}: expected {' or '.join(BINDINGS)}, got {wished!r}")
    reasons = []
    for name, (module, kind) in BINDINGS.items():
        if wished not in (None, "", name):
            continue
        try:
            device: Device = getattr(importlib.import_module(module), kind)()
            return device
        except (ImportError, OSError, RuntimeError, AttributeError, DeviceError) as error:
            reasons.append(f"{name}: {first_line(error)}")
    raise InputError(
        f"no Python binding of CUDA works here ({'; '.join(reasons)}); install cuda-python of the driver's CUDA "
        "version (pip install 'cuda-python>=12.6'), or pycuda"
    )


class Owner:
    """Something of the device's that is freed once: by `close`, at the end of a `with`, or with the object."""

    def __init__(self, device: Device, free: Callable[[int], None], handle: int) -> None:
        self._device = device
        self._free = weakref.finalize(self, _free_one, device, free, handle)
        self._free.atexit = False  # the driver frees what a process leaves; here the order could not be kept

    def close(self) -> None:
        self._free()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_one(device: Device, free: Callable[[int], None], handle: int) -> None:
    with current_if_possible(device):
        free(handle)


@contextlib.contextmanager
def current_if_possible(device: Device) -> Iterator[None]:
    """For freeing, which is to be tried even where the device cannot be made current any more."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(DeviceError):
            stack.enter_context(device.current())
        yield


class DeviceBuffer(Owner):
    """Memory on the device."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self.address = device.malloc(size)
        super().__init__(device, device.free, self.address)


class HostBuffer(Owner):
    """Page-locked host memory as a NumPy array: `array`, uint8 [size]. Use no view of it after `close`."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self.address = device.host_alloc(size)
        self.array = host_view(self.address, size)
        super().__init__(device, device.host_free, self.address)


class TransferBuffer:
    """Memory that both sides use: `host`, uint8 [size], and `address` on the device.

    On an integrated device with `zero_copy` both are the same memory, and `upload` and `download` have nothing to do.
    That suits what is read or written once; what the network reads again and again is better copied.
    """

    def __init__(self, device: Device, size: int, zero_copy: bool) -> None:
        self._device = device
        self.size = size
        with contextlib.ExitStack() as stack:
            pinned = stack.enter_context(HostBuffer(device, size))
            self.host = pinned.array
            self._host_address = pinned.address
            self._shared = zero_copy and device.properties.integrated
            if self._shared:
                self.address = device.mapped_address(pinned.address)
            else:
                self.address = stack.enter_context(DeviceBuffer(device, size)).address
            self._stack = stack.pop_all()

    def upload(self, stream: int, size: int) -> None:
        """Queues the copy of the first `size` bytes to the device."""
        if not self._shared:
            self._device.copy_to_device(self.address, self._host_address, size, stream)

    def download(self, stream: int, size: int) -> None:
        """Queues the copy of the first `size` bytes to the host."""
        if not self._shared:
            self._device.copy_to_host(self._host_address, self.address, size, stream)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> TransferBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Owner):
    def __init__(self, device: Device) -> None:
        self.handle = device.create_stream()
        super().__init__(device, device.destroy_stream, self.handle)

    def synchronize(self) -> None:
        self._device.synchronize(self.handle)


class Event(Owner):
    """A moment on a stream."""

    def __init__(self, device: Device) -> None:
        self.handle = device.create_event()
        super().__init__(device, device.destroy_event, self.handle)

    def record(self, stream: int) -> None:
        self._device.record(self.handle, stream)

    def ms_since(self, start: Event) -> float:
        return self._device.elapsed_ms(start.handle, self.handle)


class CapturedGraph(Owner):
    """Work that was captured once and is launched as one."""

    def __init__(self, device: Device, stream: int, queue: Callable[[], None]) -> None:
        """`queue` puts the work on the stream. Raises what `queue` raises, or DeviceError where it cannot be captured;
        either way the stream is usable afterwards.
        """
        device.begin_capture(stream)
        try:
            queue()
        except BaseException:
            with contextlib.suppress(DeviceError):  # the first error is the one that says something
                device.destroy_graph(device.end_capture(stream))
            raise
        graph = device.end_capture(stream)
        try:
            self.handle = device.instantiate(graph)
        except BaseException:
            with contextlib.suppress(DeviceError):
                device.destroy_graph(graph)
            raise
        super().__init__(device, device.destroy_executable, self.handle)
        try:
            device.destroy_graph(graph)
        except DeviceError:
            self.close()
            raise

    def launch(self, stream: int) -> None:
        self._device.launch(self.handle, stream)


def forget_locals(error: BaseException | None) -> None:
    """Lets go of what the frames that an error came through still hold: TensorRT's objects have an order to be freed
    in, and a traceback would keep some of them beyond it.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def host_view(address: int, size: int) -> np.ndarray:
    """uint8 [size] over host memory that somebody else owns."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
