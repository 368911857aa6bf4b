"""TensorRT without a GPU: the runtime half of the Python API, with ONNX Runtime calculating where an engine would.

    machine = install(monkeypatch, Machine(sm=87))
    folder = write_plan_engine(onnx_engine_folder)      # an engine for ONNX Runtime becomes one for TensorRT
    with Segmenter.load(folder) as segmenter:
        segmenter(image)
    assert (machine.leaks(), machine.violations) == ([], [])

A plan is the ONNX file with its profile before it. Every method has the name and the parameters of the real binding's:
test_doubles.py compares them with the signatures in tensorrt_lean's documentation strings.
unittest.mock.create_autospec would not do: it finds no signature in a pybind11 method, and lets any arguments through.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_doubles import CudaDouble, Machine, view
from kernel_doubles import HostKernels

from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.spec import EngineSpec, ModelSpec, Profile
from mask2edge.trt_plugins import OP_VERSION

real = pytest.importorskip("tensorrt_lean", reason="the doubles are made after it: pip install tensorrt-lean-cu13")
onnxruntime = pytest.importorskip("onnxruntime", reason="it calculates what an engine would")

VERSION = "10.3.0"
MAGIC = b"plan"


def make_plan(model: bytes, profile: Profile) -> bytes:
    header = json.dumps([profile.min, profile.opt, profile.max]).encode()
    return MAGIC + len(header).to_bytes(4, "little") + header + model


def write_plan_engine(folder: Path, **changes: Any) -> Path:
    """Adds model.plan to an engine folder that has model.onnx, and rewrites its spec for TensorRT; returns it."""
    spec = EngineSpec.load(folder)
    (folder / "model.plan").write_bytes(make_plan((folder / "model.onnx").read_bytes(), spec.profile))
    (folder / "model.onnx").unlink()
    files = {"model.plan": sha256_of(folder / "model.plan")}
    fields = {"backend": "tensorrt", "backend_version": VERSION, "sm": 87, "files": files, **changes}
    dataclasses.replace(spec, **fields).save(folder)
    return folder


class EngineState:
    """What engine and contexts share; contexts and captured work hold this, never the doubles themselves."""

    def __init__(self, machine: Machine, plan: bytes) -> None:
        if not plan.startswith(MAGIC):
            raise ValueError("the serialized plan has a wrong magic tag")
        length = int.from_bytes(plan[4:8], "little")
        self.machine = machine
        self.contexts = 0
        self.alive = True
        self.profile = Profile(*map(tuple, json.loads(plan[8 : 8 + length])))
        self.session = onnxruntime.InferenceSession(plan[8 + length :], providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}

    def shape(self, name: str) -> list[int]:
        """With -1 for what the profile leaves open."""
        low, high = self.profile.min, self.profile.max
        open_sizes = [size if size == most else -1 for size, most in zip(low, high, strict=True)]
        declared = {**self.inputs, **self.outputs}[name].shape
        sizes = dict(zip(("N", "H", "W"), open_sizes, strict=True))
        sizes |= {name.lower(): size if size == -1 else size // 4 for name, size in sizes.items() if name != "N"}
        return [sizes[length] if isinstance(length, str) else length for length in declared]


class ContextState:
    def __init__(self, engine: EngineState) -> None:
        self.engine = engine
        self.machine = engine.machine
        self.addresses: dict[str, int] = {}
        self.input_shape: tuple[int, ...] | None = None
        self.scratch: int | None = None
        self.version = 0  # raised by whatever makes captured work invalid
        self.warm = False  # run since the shape was set
        self.alive = True

    def shape(self, name: str) -> list[int]:
        if name in self.engine.inputs:
            return list(self.input_shape or self.engine.shape(name))
        if self.input_shape is None:
            return self.engine.shape(name)
        batch, _, height, width = self.input_shape
        known = {"N": batch, "h": height // 4, "w": width // 4}
        return [known.get(length, length) for length in self.engine.outputs[name].shape]

    def work(self) -> Callable[[], None]:
        """The network on the addresses and shapes of now."""
        version, addresses = self.version, dict(self.addresses)
        shapes = {name: self.shape(name) for name in addresses}

        def calculate() -> None:
            if not self.alive or self.version != version:
                self.machine.violations.append("ran a graph whose context was changed or freed")
                return
            arrays = {}
            for name, address in addresses.items():
                size = 4 * int(np.prod(shapes[name]))
                self.machine.check(address, size, "device")
                arrays[name] = view(address, size).view(np.float32).reshape(shapes[name])
            self.machine.check(self.scratch or 0, ENGINE_SCRATCH, "device")
            feeds = {name: arrays[name] for name in self.engine.inputs}
            results = self.engine.session.run(list(self.engine.outputs), feeds)
            for name, value in zip(self.engine.outputs, results, strict=True):
                arrays[name][...] = value

        calculate.context = self  # type: ignore[attr-defined]
        return calculate


ENGINE_SCRATCH = 4096
LAYER_TIMES = (("conv", 0.5), ("attention", 0.25), ("conv", 0.25))  # what a profiler is told of each execution


class IExecutionContext:
    def __init__(self, engine: EngineState, log: Callable[[str], None]) -> None:
        self._state = ContextState(engine)
        self._log = log
        self._profiler: Any = None
        engine.contexts += 1
        engine.machine.objects["context"] += 1

    def __del__(self) -> None:
        self._state.alive = False
        self._state.engine.contexts -= 1
        self._state.machine.objects["context"] -= 1
        self._state.machine.journal.append("free context")
        graphs = self._state.machine.executables.values()
        if any(getattr(work, "context", None) is self._state for graph in graphs for work in graph):
            self._state.machine.violations.append("freed a context before its graphs")

    def set_device_memory(self, memory: int, size: int) -> None:
        self._state.machine.journal.append("set_device_memory")
        self._state.machine.check(memory, size, "device")
        self._state.scratch = memory
        self._state.version += 1

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._state.machine.fails("set_tensor_address"):
            return False
        self._state.addresses[name] = memory
        self._state.version += 1
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = self._state.engine.profile.min, self._state.engine.profile.max
        sizes = (shape[0], *shape[2:])
        fits = all(least <= size <= most for least, size, most in zip(low, sizes, high, strict=True))
        if self._state.machine.fails("set_input_shape") or not fits:
            self._log(f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({name}: {shape})\nmore")
            return False
        self._state.input_shape = tuple(shape)
        self._state.version += 1
        self._state.warm = False
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return real.Dims(self._state.shape(name))

    def execute_async_v3(self, stream_handle: int) -> bool:
        state = self._state
        if state.machine.fails("execute_async_v3"):
            self._log("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (invalid argument)")
            return False
        if state.input_shape is None or state.scratch is None or set(state.addresses) != {
            *state.engine.inputs, *state.engine.outputs,
        }:  # fmt: skip
            self._log("IExecutionContext::enqueueV3: Error Code 3: a shape, an address or the memory is not set")
            return False
        if stream_handle in state.machine.captures and not state.warm:
            state.machine.violations.append("captured before a plain run with this shape")
        state.warm = True
        state.machine.queue(stream_handle, state.work())
        if self._profiler is not None:
            if stream_handle in state.machine.captures:
                state.machine.violations.append("captured a context that has a profiler")
            for name, milliseconds in LAYER_TIMES:
                self._profiler.report_layer_time(name, milliseconds)
        return True

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        assert isinstance(profiler, real.IProfiler)
        self._profiler = profiler


class ICudaEngine:
    def __init__(self, state: EngineState, log: Callable[[str], None]) -> None:
        self._state = state
        self._log = log
        state.machine.objects["engine"] += 1

    def __del__(self) -> None:
        self._state.alive = False
        self._state.machine.objects["engine"] -= 1
        self._state.machine.journal.append("free engine")
        if self._state.contexts:
            self._state.machine.violations.append("freed the engine before its contexts")

    @property
    def num_io_tensors(self) -> int:
        return len(self._state.inputs) + len(self._state.outputs)

    @property
    def device_memory_size_v2(self) -> int:
        return ENGINE_SCRATCH

    def get_tensor_name(self, index: int) -> str:
        return [*self._state.inputs, *self._state.outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return real.TensorIOMode.INPUT if name in self._state.inputs else real.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = {**self._state.inputs, **self._state.outputs}[name].type
        return {"tensor(float)": real.DataType.FLOAT, "tensor(float16)": real.DataType.HALF}[kind]

    def get_tensor_location(self, name: str) -> Any:
        return real.TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Any:
        return real.Dims(self._state.shape(name))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        profile = self._state.profile
        return [real.Dims([size[0], 3, *size[1:]]) for size in (profile.min, profile.opt, profile.max)]

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        assert strategy == real.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._state.machine.fails("create_execution_context"):
            self._log("IRuntime::createExecutionContext: Error Code 2: OutOfMemory")
            return None
        return IExecutionContext(self._state, self._log)


class IPluginRegistry:
    """With our plugins once their library is loaded; TensorRT refuses a library a second time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._creators: list[SimpleNamespace] = [creator("MyelinWeightsTransformPlugin", "")]

    @property
    def all_creators(self) -> list[Any]:
        return self._creators

    def load_library(self, plugin_path: str) -> object | None:
        if self._machine.fails("load_library") or len(self._creators) > 1:
            return None
        self._creators += [creator(name, "mask2edge") for name in ("MultiscaleDeformableAttention", "MaskedAttention")]
        return object()


def creator(name: str, namespace: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, plugin_version="1", plugin_namespace=namespace)


class TensorRT:
    """The module."""

    ILogger = real.ILogger
    IProfiler = real.IProfiler
    Dims = real.Dims
    DataType = real.DataType
    TensorIOMode = real.TensorIOMode
    TensorLocation = real.TensorLocation
    ExecutionContextAllocationStrategy = real.ExecutionContextAllocationStrategy

    def __init__(self, machine: Machine, version: str = VERSION) -> None:
        self.__version__ = version
        registry = IPluginRegistry(machine)
        self.get_plugin_registry = lambda: registry

        class Runtime:
            def __init__(self, logger: Any) -> None:
                machine.journal.append("Runtime")
                machine.objects["runtime"] += 1
                self._logger = logger
                self._engines: list[EngineState] = []

            def __del__(self) -> None:
                machine.objects["runtime"] -= 1
                machine.journal.append("free runtime")
                if any(engine.alive for engine in self._engines):
                    machine.violations.append("freed the runtime before its engine")

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                def log(message: str) -> None:
                    self_logger.log(real.ILogger.Severity.ERROR, message)

                self_logger = self._logger  # the engine keeps the logger, not the runtime
                self_logger.log(real.ILogger.Severity.WARNING, "nothing to worry about")
                if machine.fails("deserialize_cuda_engine"):
                    log("IRuntime::deserializeCudaEngine: Error Code 1: Serialization")
                    return None
                try:
                    self._engines.append(EngineState(machine, serialized_engine))
                    return ICudaEngine(self._engines[-1], log)
                except Exception as error:
                    log(f"IRuntime::deserializeCudaEngine: Error Code 1: {error}")
                    return None

            def load_runtime(self, path: str) -> Any:
                machine.journal.append(f"load_runtime {path}")
                return None if machine.fails("load_runtime") or not path else Runtime(self._logger)

            def get_plugin_registry(self) -> IPluginRegistry:
                return registry

        self.Runtime = Runtime


def install(
    patch: pytest.MonkeyPatch, machine: Machine, version: str = VERSION, library: Path | None = None,
    model: ModelSpec | None = None,
) -> Machine:  # fmt: skip
    """Makes `machine` the GPU of this process, with TensorRT and cuda-python on it.

    `library` stands for the plugin library, whose kernels are then the host's functions for `model`; None: it is not
    installed.
    """
    patch.setitem(sys.modules, "tensorrt", TensorRT(machine, version))
    patch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(machine))
    patch.setattr("mask2edge.runtime.session_tensorrt.cuda_obstacle", lambda: "")
    patch.setattr("mask2edge.trt_plugins.tensorrt_plugin_library", lambda: library)
    patch.setattr("mask2edge.trt_plugins.plugin_library_version", lambda library: OP_VERSION)
    if model is not None:
        kernels = HostKernels(machine, model)
        patch.setattr("mask2edge.runtime.image_steps.DeviceKernels", lambda library: kernels)
    return machine


def disagreements(double: type, documented: Any) -> list[str]:
    """Where a double's public names and parameters are not those of the real class or module."""
    found = []
    for name, member in vars(double).items():
        if name.startswith("_"):
            continue
        if not hasattr(documented, name):
            found.append(f"{double.__name__}.{name}: not in the binding")
        elif inspect.isfunction(member):
            ours = [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
            theirs = parameters(getattr(documented, name), name)
            if ours not in theirs:
                found.append(f"{double.__name__}.{name}: {ours}, and the binding takes {theirs}")
    return found


def parameters(function: Any, name: str) -> list[list[str]]:
    """The parameters' names of each overload, without self: from the signature or from pybind11's documentation."""
    try:
        found = [name for name in inspect.signature(function).parameters if name != "self"]
        if found != ["args", "kwargs"]:
            return [found]
    except ValueError:
        pass
    overloads = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", function.__doc__ or "", re.MULTILINE)
    return [
        [parameter for parameter in re.findall(r"(?:^|, )(\w+): ", overload) if parameter != "self"]
        for overload in overloads
        if overload != "*args, **kwargs"
    ]
