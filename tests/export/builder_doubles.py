"""TensorRT's builder without a GPU: its half of the Python API, over the runtime's doubles of tests/runtime.

    machine = install(monkeypatch, BuilderMachine(runs=standard_model), library=file)
    build_tensorrt_engine(model, description, out)
    machine.config.flags, machine.journal

A build makes a plan that the runtime's doubles calculate with ONNX Runtime. Every method has the name and the
parameters of the real binding's: `test_doubles_agree_with_the_bindings` compares them with tensorrt_rtx, whose builder
is TensorRT's. Enumerations and the progress monitor are the real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

import tensorrt_doubles
from cuda_doubles import Machine
from tensorrt_doubles import VERSION, TensorRT, make_plan

from mask2edge.runtime.spec import ModelSpec, Profile

real = pytest.importorskip("tensorrt_rtx", reason="the doubles are made after TensorRT-RTX: pip install tensorrt-rtx")

TYPED = 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
CACHE = b"timing cache of "
PHASES = (("Building engine", None, 3), ("Timing graph nodes", "Building engine", 40))


class BuilderMachine(Machine):
    """`runs`: the model that engines calculate; None: the one that is built, if ONNX Runtime can. `during_build` is
    called in the middle of each build.
    """

    def __init__(
        self, runs: bytes | None = None, during_build: Callable[[], None] | None = None, **machine: Any
    ) -> None:
        super().__init__(**machine)
        self.runs = runs
        self.during_build = during_build
        self.unsupported: set[str] = set()  # operators that the parser does not know
        self.parser_errors: list[tuple[int, str, str, str]] = []  # node, name, operator, description
        self.build_error = ""
        self.config: IBuilderConfig | None = None  # of the last build
        self.network: INetworkDefinition | None = None
        self.layers: Any = None  # what the inspector says; None: one layer for each node
        self.steps_answered: list[bool] = []


class ITensor:
    def __init__(self, name: str, shape: list[int]) -> None:
        self.name = name
        self.shape = real.Dims(shape)


class INetworkDefinition:
    def __init__(self, machine: BuilderMachine) -> None:
        self._machine = machine
        self._model = onnx.ModelProto()

    def get_input(self, index: int) -> ITensor:
        value = self._model.graph.input[index]
        sizes = [length.dim_value or -1 for length in value.type.tensor_type.shape.dim]
        return ITensor(value.name, sizes)


class ParserError:
    def __init__(self, node: int, name: str, operator: str, description: str) -> None:
        self._values = node, name, operator, description

    def node(self) -> int:
        return self._values[0]

    def node_name(self) -> str:
        return self._values[1]

    def node_operator(self) -> str:
        return self._values[2]

    def desc(self) -> str:
        return self._values[3]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network = network
        self._machine = network._machine
        self._errors: list[ParserError] = []

    def supports_operator(self, op_name: str) -> bool:
        if self._machine.fails("supports_operator"):
            raise RuntimeError("no such function")
        return op_name not in self._machine.unsupported

    def parse(self, model: Any, path: str | None = None) -> bool:
        if self._machine.fails("parse"):
            self._errors.append(ParserError(-1, "", "", "Failed to parse the ONNX model"))
            return False
        if self._machine.parser_errors:
            self._errors += [ParserError(*values) for values in self._machine.parser_errors]
            return False
        self._network._model.ParseFromString(bytes(model))
        for node in self._network._model.graph.node:
            attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            if node.domain and attributes.get("plugin_namespace") != node.domain.encode():
                # As 10.3 does it: the node's domain is not looked at.
                self._errors.append(ParserError(0, node.name, node.op_type, "Plugin not found"))
                return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self, machine: BuilderMachine) -> None:
        self._machine = machine
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        if self._machine.fails("set_shape"):
            raise ValueError("IOptimizationProfile::setDimensions failed")
        self._shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, machine: BuilderMachine, content: bytes) -> None:
        self._machine = machine
        self._content = content

    def serialize(self) -> memoryview | None:
        return None if self._machine.fails("serialize") else memoryview(self._content)


class IBuilderConfig:
    __slots__ = (
        "_cache", "_log", "_machine", "_version", "builder_optimization_level", "flags", "pools", "profiles",
        "profiling_verbosity", "progress_monitor",
    )  # fmt: skip

    def __init__(self, machine: BuilderMachine, version: str, log: Callable[[str], None]) -> None:
        self._machine = machine
        self._version = version
        self._log = log
        self._cache: ITimingCache | None = None
        self.flags = {real.BuilderFlag.TF32}
        self.pools: dict[Any, int] = {}
        self.profiles: list[IOptimizationProfile] = []

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        if self._machine.fails("clear_flag"):
            raise RuntimeError("no such flag")
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if self._machine.fails("add_optimization_profile"):
            self._log("IBuilderConfig::addOptimizationProfile: Error Code 4: API Usage Error (profile is not valid)")
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        content = bytes(serialized_timing_cache)
        if self._machine.fails("create_timing_cache") or (content and not content.startswith(CACHE)):
            self._log("IBuilderConfig::createTimingCache: Error Code 1: Serialization (magic tag)")
            return None
        return ITimingCache(self._machine, content or CACHE + self._version.encode() + b":")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self._machine.fails("set_timing_cache") or self._version.encode() not in cache._content:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class EngineInspector:
    def __init__(self, machine: BuilderMachine) -> None:
        self._machine = machine

    def get_engine_information(self, format: Any) -> str | None:  # noqa: A002
        assert format == real.LayerInformationFormat.JSON
        if self._machine.fails("get_engine_information"):
            return None
        if isinstance(self._machine.layers, str):
            return self._machine.layers
        assert self._machine.network is not None
        layers = [
            {"Name": node.name or node.output[0], "LayerType": "PluginV3" if node.domain else "kgen",
             "Outputs": [{"Name": node.output[0], "Format/Datatype": "Half"}],
             "Metadata": f"[ONNX Layer: {node.name}]"}
            for node in self._machine.network._model.graph.node
        ]  # fmt: skip
        return json.dumps({"Layers": self._machine.layers or layers, "Bindings": ["pixels"]})


class BuilderTensorRT(TensorRT):
    """The module, with what the runtime alone does not have."""

    IProgressMonitor = real.IProgressMonitor
    NetworkDefinitionCreationFlag = real.NetworkDefinitionCreationFlag
    BuilderFlag = real.BuilderFlag
    MemoryPoolType = real.MemoryPoolType
    ProfilingVerbosity = real.ProfilingVerbosity
    LayerInformationFormat = real.LayerInformationFormat
    OnnxParser = OnnxParser

    def __init__(self, machine: BuilderMachine, version: str = VERSION) -> None:
        super().__init__(machine, version)
        self.Builder = type("Builder", (Builder,), {"_machine": machine, "_version": version})


class Builder:
    _machine: BuilderMachine
    _version: str

    def __init__(self, logger: Any) -> None:
        if self._machine.fails("Builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def _log(self, message: str) -> None:
        self._logger.log(TensorRT.ILogger.Severity.ERROR, message)

    def create_network(self, flags: int = 0) -> INetworkDefinition | None:
        assert flags == TYPED, "a network that is not strongly typed"
        return None if self._machine.fails("create_network") else INetworkDefinition(self._machine)

    def create_builder_config(self) -> IBuilderConfig | None:
        if self._machine.fails("create_builder_config"):
            return None
        return IBuilderConfig(self._machine, self._version, self._log)

    def create_optimization_profile(self) -> IOptimizationProfile | None:
        return None if self._machine.fails("create_optimization_profile") else IOptimizationProfile(self._machine)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> memoryview | None:
        machine = self._machine
        machine.config, machine.network = config, network
        machine.journal.append(f"build after {len(config.profiles)} profiles")
        if machine.fails("build_serialized_network") or machine.build_error:
            self._log(machine.build_error or "IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory\nmore")
            self._log("IBuilder::buildSerializedNetwork: Error Code 2: Internal Error (Assertion engine failed.)")
            return None
        for name, parent, steps in PHASES:
            config.progress_monitor.phase_start(name, parent, steps)
            for step in range(steps):
                if step == 1 and parent and machine.during_build:
                    machine.during_build()
                machine.steps_answered.append(config.progress_monitor.step_complete(name, step))
                if not machine.steps_answered[-1]:
                    self._log("IBuilder::buildSerializedNetwork: Error Code 10: the build was cancelled")
                    return None
        for name, _, _ in reversed(PHASES):
            config.progress_monitor.phase_finish(name)
        if config._cache is not None:
            config._cache._content += b"kernels "
        return memoryview(make_plan(machine.runs or network._model.SerializeToString(), self._profile(network, config)))

    def _profile(self, network: INetworkDefinition, config: IBuilderConfig) -> Profile:
        if config.profiles:
            shapes = config.profiles[0]._shapes["pixels"]
        else:
            assert -1 not in tuple(network.get_input(0).shape), "a dynamic network without a profile"
            shapes = (tuple(network.get_input(0).shape),) * 3
        return Profile(*((shape[0], shape[2], shape[3]) for shape in shapes))


def install(
    patch: pytest.MonkeyPatch, machine: BuilderMachine, version: str = VERSION, library: Path | None = None,
    model: ModelSpec | None = None,
) -> BuilderMachine:  # fmt: skip
    """Makes `machine` the GPU of this process, with the whole of TensorRT on it. See `tensorrt_doubles.install`."""
    tensorrt_doubles.install(patch, machine, version, library, model)
    patch.setitem(sys.modules, "tensorrt", BuilderTensorRT(machine, version))
    patch.setattr("mask2edge.export.backends.cuda_obstacle", lambda: "")
    patch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(library or "/nowhere.so"))

    def create_engine_inspector(engine: Any) -> EngineInspector | None:
        return None if machine.fails("create_engine_inspector") else EngineInspector(machine)

    patch.setattr(tensorrt_doubles.ICudaEngine, "create_engine_inspector", create_engine_inspector, raising=False)
    return machine


def runnable(proto: onnx.ModelProto) -> bytes:
    """The model with its dynamic sizes named as the runtime's doubles know them."""
    names = {"batch": "N", "height": "H", "width": "W", "height/4": "h", "width/4": "w"}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in (*copy.graph.input, *copy.graph.output):
        for length in value.type.tensor_type.shape.dim:
            if length.dim_param:
                length.dim_param = names[length.dim_param]
    return copy.SerializeToString()
