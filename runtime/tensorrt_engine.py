"""A TensorRT engine, loaded: refused in one line where this machine or TensorRT is not the one that it was built for.

    with open_device() as device, TensorRTEngine(folder / "model.plan", spec, device) as engine:
        context = engine.create_context()

Everything is checked before TensorRT's runtime is made, because a plan that does not fit may end the process. Native
code never comes out of an engine folder: the plugin library is the installed one, and a version-compatible plan takes
its lean runtime from the file that MASK2EDGE_LEAN_RUNTIME names.
"""

from __future__ import annotations

import functools
import os
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.device_memory import LOOK_CLOSER, OUT_OF_MEMORY, Device, DeviceError, forget_locals
from mask2edge.runtime.session import INPUT, OUTPUTS, first_line
from mask2edge.runtime.spec import MASK_STRIDE, EngineSpec

LEAN_RUNTIME_VARIABLE = "MASK2EDGE_LEAN_RUNTIME"
PROFILE = 0  # the optimization profile: the builder makes one
AGAIN = "build the engine again on this device"


class TensorRTEngine:
    """Owns TensorRT's runtime and engine. Contexts made from it are to be dropped before `close`."""

    def __init__(self, plan: Path, spec: EngineSpec, device: Device) -> None:
        """Raises InputError where the engine cannot run here."""
        self._folder = plan.parent
        self._spec = spec
        self._engine: Any = None
        self._runtimes: list[Any] = []
        self.trt = import_tensorrt(self._folder)
        newer = require_same_version(self._folder, spec, self.trt.__version__)
        if device.properties.sm != spec.sm:
            raise InputError(
                f"{self._folder}: built for compute capability {_dotted(spec.sm)}, and {device.properties.name} has "
                f"{_dotted(device.properties.sm)}; {AGAIN}"
            )
        if spec.ops == "custom":
            require_plugin_library(self._folder, spec)
        self._logger, self._log = process_logger(self.trt)
        try:
            self._load(plan, newer)
            self._check_tensors()
        except BaseException as error:
            forget_locals(error)
            self.close()
            raise

    @property
    def scratch_size(self) -> int:
        """Bytes of device memory that one execution at a time needs, for the largest shapes."""
        return int(self._engine.device_memory_size_v2)

    def create_context(self, scratch: int) -> Any:
        """An execution context whose activations live at `scratch`, `scratch_size` bytes that contexts may share as
        long as they do not run at the same time.
        """
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self.call("make an execution context", self._engine.create_execution_context, strategy)
        self.call("place the activations", context.set_device_memory, scratch, self.scratch_size, returns=False)
        return context

    def layer_profiler(self) -> tuple[Any, list[Counter[str]]]:
        """An IProfiler, and the list to whose last Counter it adds each layer's milliseconds."""
        times: list[Counter[str]] = []
        trt = self.trt

        class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[-1][layer_name] += ms  # type: ignore[assignment]

        return Profiler(), times

    def call(self, purpose: str, function: Callable[..., Any], *arguments: Any, returns: bool = True) -> Any:
        """The function's result. Raises DeviceError, with what TensorRT logged, where that is None or False."""
        self._log.clear()
        try:
            result = function(*arguments)
        except Exception as error:  # the bindings raise RuntimeError, TypeError and others
            problem = f"{self._folder}: TensorRT could not {purpose} ({first_line(error)})"
            raise DeviceError(f"{problem}; {LOOK_CLOSER}") from error
        if returns and (result is None or result is False):
            reason = first_line(self._log[-1]) if self._log else "it does not say why"
            advice = OUT_OF_MEMORY if "memory" in reason.lower() else LOOK_CLOSER
            raise DeviceError(f"{self._folder}: TensorRT could not {purpose} ({reason}); {advice}")
        return result

    def close(self) -> None:
        # The engine needs its runtime until its end, and a lean runtime the one that loaded it.
        self._engine = None
        while self._runtimes:
            self._runtimes.pop()

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, plan: Path, newer: bool) -> None:
        runtime = self.call("start", self.trt.Runtime, self._logger)
        self._runtimes.append(runtime)
        if newer:
            lean = os.environ.get(LEAN_RUNTIME_VARIABLE, "")
            runtime = self.call(f"load the lean runtime {lean}", runtime.load_runtime, lean)
            self._runtimes.append(runtime)
        if self._spec.ops == "custom":
            # A lean runtime of another version has a registry of its own.
            registry = runtime.get_plugin_registry if newer else self.trt.get_plugin_registry
            _register_plugins(SimpleNamespace(get_plugin_registry=registry, __version__=self.trt.__version__))
        self._engine = self.call("load the engine", runtime.deserialize_cuda_engine, plan.read_bytes())

    def _check_tensors(self) -> None:
        engine, trt, model = self._engine, self.trt, self._spec.model
        found = {
            name: engine.get_tensor_mode(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        expected = {INPUT: trt.TensorIOMode.INPUT, **dict.fromkeys(OUTPUTS, trt.TensorIOMode.OUTPUT)}
        if found != expected:
            names = ", ".join(found) or "none"
            raise InputError(
                f"{self._folder}: expected input {INPUT} and outputs {', '.join(OUTPUTS)}, got {names}; {AGAIN}"
            )
        # Of each length the smallest and the largest.
        batch, height, width = zip(self._spec.profile.min, self._spec.profile.max, strict=True)
        queries = (model.num_queries,) * 2
        classes = (model.num_classes + 1,) * 2
        mask = [(least // MASK_STRIDE, most // MASK_STRIDE) for least, most in (height, width)]
        ranges = {
            INPUT: [batch, (3, 3), height, width],
            "class_logits": [batch, queries, classes],
            "mask_logits": [batch, queries, *mask],
        }
        for name, lengths in ranges.items():
            shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            fits = len(shape) == len(lengths) and all(
                length in (-1, least) and length in (-1, most)
                for length, (least, most) in zip(shape, lengths, strict=True)
            )
            if not fits or kind != trt.DataType.FLOAT or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                wanted = [least if least == most else f"{least}..{most}" for least, most in lengths]
                raise InputError(
                    f"{self._folder}: expected {name} as float32 {_shape_text(wanted)} on the device, "
                    f"got {kind} {_shape_text(shape)}; {AGAIN}"
                )
        if -1 in tuple(engine.get_tensor_shape(INPUT)):
            self._check_profile()

    def _check_profile(self) -> None:
        least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(INPUT, PROFILE))
        profile = self._spec.profile
        wanted = [(size[0], 3, size[1], size[2]) for size in (profile.min, profile.max)]
        inside = all(
            low <= first and second <= high
            for low, first, second, high in zip(least, wanted[0], wanted[1], most, strict=True)
        )
        if not inside:
            raise InputError(
                f"{self._folder}: expected a plan for {_shape_text(wanted[0])} to {_shape_text(wanted[1])}, as the "
                f"profile says, got {_shape_text(least)} to {_shape_text(most)}; {AGAIN}"
            )


def import_tensorrt(folder: Path) -> Any:
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise InputError(
            f"{folder}: this engine runs on TensorRT, whose Python package cannot be imported ({first_line(error)}); "
            "on a Jetson use a virtual environment with --system-site-packages, elsewhere install tensorrt "
            "in the version that built it"
        ) from error
    return tensorrt


def require_same_version(folder: Path, spec: EngineSpec, installed: str) -> bool:
    """Whether `installed` is a newer TensorRT that may run the engine all the same. Raises InputError where not."""
    if installed == spec.backend_version:
        return False
    problem = f"{folder}: built with TensorRT {spec.backend_version}, and {installed} is installed"
    if not spec.version_compatible:
        raise InputError(f"{problem}; {AGAIN}")
    if _version_key(installed) < _version_key(spec.backend_version):
        raise InputError(f"{problem}, which is older; {AGAIN}")
    if not os.environ.get(LEAN_RUNTIME_VARIABLE):
        raise InputError(
            f"{problem}; point {LEAN_RUNTIME_VARIABLE} at libnvinfer_lean.so of {spec.backend_version}, or {AGAIN}"
        )
    return True


def require_plugin_library(folder: Path, spec: EngineSpec) -> None:
    """Raises InputError where the installed plugin library is not the one that the engine was built with."""
    from mask2edge.trt_plugins import OP_VERSION, tensorrt_plugin_library, why_no_plugin_library

    if spec.op_library_version > OP_VERSION:
        raise InputError(
            f"{folder}: made for version {spec.op_library_version} of the native ops, and {OP_VERSION} is installed; "
            "update mask2edge or build the engine again"
        )
    library = tensorrt_plugin_library()
    if library is None:
        raise InputError(f"{folder}: this engine needs the TensorRT plugins: {why_no_plugin_library()}")
    if spec.plugin_sha256 is None or sha256_of(library) != spec.plugin_sha256:
        raise InputError(
            f"{folder}: built with another plugin library than {library} (its sha256 is not the one in spec.json); "
            f"{AGAIN}"
        )


def _register_plugins(trt: Any) -> None:
    from mask2edge.trt_plugins import register_plugins

    try:
        register_plugins(trt)
    except (OSError, ValueError) as error:
        raise InputError(first_line(error)) from error


@functools.cache
def process_logger(trt: Any) -> tuple[Any, deque[str]]:
    """The logger and the last errors that it got: TensorRT says why in its log, and returns None or False.

    One for the process and for ever: the first logger that TensorRT gets serves its plugin registry too.
    """
    lines: deque[str] = deque(maxlen=64)  # a failed build logs many, and the first one says why

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            # TensorRT may call this from threads of its own, where deque.append is safe.
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                lines.append(msg)

    return Logger(), lines


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _dotted(sm: int | None) -> str:
    return "unknown" if sm is None else f"{sm // 10}.{sm % 10}"


def _shape_text(shape: Any) -> str:
    return f"[{', '.join(map(str, shape))}]"
