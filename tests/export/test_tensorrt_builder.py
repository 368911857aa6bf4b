"""The TensorRT builder on a pretended GPU: what it asks for, in which order, and what an engine folder holds then."""

import dataclasses
import json
from pathlib import Path

import builder_doubles
import numpy as np
import onnx
import pytest
from builder_doubles import real
from builder_testing import described, gpu_fixture, library_fixture, written  # noqa: F401
from tensorrt_doubles import disagreements
from tiny_export import DYNAMIC, FIXED, tiny_spec
from toy_graph import toy_graph

from mask2edge.benchmarks.artifact import calibration_of
from mask2edge.export.build_engine import main
from mask2edge.export.build_progress import BuildProgress
from mask2edge.export.half_storage import store_half
from mask2edge.export.stage_comparison import noise, runner
from mask2edge.export.tensorrt_builder import build_tensorrt_engine
from mask2edge.export.tensorrt_options import TensorrtOptions
from mask2edge.export.timing_cache import default_path
from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session_tensorrt import TensorRTSession
from mask2edge.runtime.spec import EngineSpec, Profile

FLAG = real.BuilderFlag


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("double", "documented"),
    [
        (double, getattr(real, double.__name__))
        for double in (
            builder_doubles.Builder,
            builder_doubles.IBuilderConfig,
            builder_doubles.INetworkDefinition,
            builder_doubles.IOptimizationProfile,
            builder_doubles.ITimingCache,
            builder_doubles.OnnxParser,
            builder_doubles.ParserError,
            builder_doubles.EngineInspector,
        )
    ],
    ids=lambda value: value.__name__ if value.__module__ == "builder_doubles" else "",
)
def test_doubles_agree_with_the_bindings(double, documented):
    ours = set(disagreements(double, documented))
    # What tests read from a configuration is no method: the double remembers what was set.
    assert ours <= {"IBuilderConfig.pools: not in the binding", "IBuilderConfig.profiles: not in the binding"}


def test_an_engine(gpu, library, capsys):
    machine = gpu()
    source = written(toy_graph("custom", FIXED))
    assert main([str(source), "--backend", "tensorrt"]) == 0
    folder = Path("artifacts/model-fp32.engine")
    assert sorted(path.name for path in folder.iterdir()) == ["layers.json", "model.plan", "spec.json"]
    assert EngineSpec.load(folder) == EngineSpec(
        model=tiny_spec(),
        profile=FIXED,
        backend="tensorrt",
        backend_version="10.3.0",
        precision="fp32",
        ops="custom",
        op_library_version=1,
        files={name: sha256_of(folder / name) for name in ("model.plan", "layers.json")},
        checkpoint_sha256="0" * 64,
        sm=87,
        plugin_sha256=sha256_of(library),
    )
    pixels = noise(1, 64, 96)
    expected = runner(toy_graph("standard", FIXED))({"pixels": pixels})
    with TensorRTSession(folder, EngineSpec.load(folder)) as session:
        found = session.run(pixels)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    assert (machine.leaks(), machine.violations) == ([], [])
    output = capsys.readouterr()
    assert "1 ours" in output.out
    assert "building for Pretend GPU with TensorRT 10.3.0" in output.err


def test_an_int8_engine_says_how_it_was_calibrated_and_others_say_nothing(gpu):
    gpu()
    proto = toy_graph("custom", FIXED)
    about = dataclasses.replace(described(proto), precision="int8", calibration="percentile, 8 images")
    build_tensorrt_engine(proto, about, Path("x.engine"))
    spec = EngineSpec.load(Path("x.engine"))
    assert (spec.calibration, calibration_of(Path("x.engine"), spec)) == (about.calibration, about.calibration)
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    assert "calibration" not in json.loads(Path("x.engine/spec.json").read_text())


def test_the_order_of_the_calls(gpu):
    machine = gpu()
    proto = toy_graph("custom", FIXED)
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    wanted = [
        "load_library", "Builder", "create_network", "parse", "create_builder_config", "clear_flag",
        "create_timing_cache", "set_timing_cache", "build after 0 profiles", "build_serialized_network", "serialize",
        "Runtime", "deserialize_cuda_engine", "create_engine_inspector", "get_engine_information", "free runtime",
        "Runtime", "deserialize_cuda_engine", "create_execution_context", "execute_async_v3",
    ]  # fmt: skip
    steps = iter(machine.journal)
    assert [name for name in wanted if name not in steps] == []


def test_the_segmenter_takes_it(gpu):
    gpu(DYNAMIC)
    proto = toy_graph("custom", DYNAMIC)
    build_tensorrt_engine(written(proto), described(proto), Path("x.engine"))
    with Segmenter.load("x.engine") as segmenter:
        image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
        assert segmenter(image, "semantic").label_map.shape == (60, 90)


def test_float32_is_float32_and_nothing_else_is_asked_for(gpu):
    machine = gpu()
    proto = toy_graph("custom", FIXED)
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    assert machine.config.flags == set()  # not even TF32, which TensorRT sets
    assert machine.config.pools == {}
    assert machine.config.profiles == []  # a fixed size needs none
    assert machine.config.profiling_verbosity == real.ProfilingVerbosity.DETAILED
    assert not hasattr(machine.config, "builder_optimization_level")


def test_options_reach_the_build(gpu):
    machine = gpu()
    arguments = ["--workspace", "512", "--optimization-level", "5", "--tf32", "--refit", "--version-compatible"]
    assert main([str(written(toy_graph("custom", FIXED))), "--backend", "tensorrt", *arguments]) == 0
    assert machine.config.flags == {FLAG.TF32, FLAG.REFIT, FLAG.VERSION_COMPATIBLE, FLAG.EXCLUDE_LEAN_RUNTIME}
    assert machine.config.pools == {real.MemoryPoolType.WORKSPACE: 512 << 20}
    assert machine.config.builder_optimization_level == 5
    assert EngineSpec.load(Path("artifacts/model-fp32.engine")).version_compatible


def test_a_dynamic_graph_gets_its_profile(gpu):
    machine = gpu(DYNAMIC)
    proto = toy_graph("custom", DYNAMIC)
    spec = build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    (profile,) = machine.config.profiles
    assert profile._shapes == {"pixels": ((1, 3, 32, 32), (1, 3, 64, 96), (3, 3, 256, 256))}
    assert spec.profile == DYNAMIC
    with TensorRTSession(Path("x.engine"), spec) as session:
        assert session.run(noise(2, 96, 32))["mask_logits"].shape == (2, 7, 24, 8)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_types_are_in_the_graph(gpu, precision, capsys):
    machine = gpu()
    source = written(toy_graph("custom", FIXED))
    assert main([str(source), "--backend", "tensorrt", f"--{precision}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["sm"], report["backend"]) == (precision, 87, "tensorrt")
    folder = Path(report["engine"])
    assert folder.name == f"model-{precision}.engine"
    assert EngineSpec.load(folder).precision == precision
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    graph = machine.network._model.graph
    stored = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}  # kernels of convolutions
    assert stored == {half}
    assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [onnx.TensorProto.FLOAT] * 3


def test_overrides_reach_the_graph(gpu):
    machine = gpu()
    source = written(toy_graph("custom", FIXED))
    arguments = ["--fp16", "--precision-override", "backbone.*=fp16", "--precision-override", "backbone.*=fp32"]
    assert main([str(source), "--backend", "tensorrt", *arguments]) == 0
    kernels = [tensor.data_type for tensor in machine.network._model.graph.initializer if len(tensor.dims) == 4]
    assert onnx.TensorProto.FLOAT in kernels


def test_half_storage_becomes_what_is_asked_for(gpu, capsys):
    machine = gpu()
    source = written(store_half(toy_graph("custom", FIXED)))
    assert main([str(source), "--backend", "tensorrt"]) == 0  # as it is stored
    assert EngineSpec.load(Path("artifacts/model-fp16.engine")).precision == "fp16"
    assert {"Cast", "MaskedAttention"} <= {node.op_type for node in machine.network._model.graph.node}
    assert main([str(source), "--backend", "tensorrt", "--fp32"]) == 0
    assert "rounded to half precision before" in capsys.readouterr().err
    assert EngineSpec.load(Path("artifacts/model-fp32.engine")).precision == "fp32"


def test_an_engine_from_a_checkpoint(gpu, checkpoint, monkeypatch):
    """`--ops auto` is custom on TensorRT, whether or not ONNX Runtime has the ops."""
    monkeypatch.setenv("MASK2EDGE_OPS_LIBRARY", "/nowhere.so")
    wishes = []

    def export(model, spec, profile, ops, sha256):
        wishes.append((profile, ops, sha256))
        return toy_graph(ops, FIXED)

    monkeypatch.setattr("mask2edge.export.to_onnx.export_verified", export)
    gpu()
    assert main([str(checkpoint), "--backend", "tensorrt", "--fp16", "--size", "64x64"]) == 0
    assert wishes == [(Profile.fixed(64, 64), "custom", sha256_of(checkpoint))]
    assert EngineSpec.load(Path("artifacts/tiny-fp16.engine")).precision == "fp16"


def test_progress_is_said_now_and_then(capsys):
    times = iter([0.0, 1.0, 2.5, 3.0, 5.0])
    lines: list[str] = []
    progress = BuildProgress(lines.append, seconds=2, clock=lambda: next(times))
    monitor = progress.monitor(real)
    monitor.phase_start("Building engine", None, 4)
    monitor.phase_start("Timing graph nodes", "Building engine", 40)
    assert [monitor.step_complete("Timing graph nodes", step) for step in (0, 1, 2)] == [True] * 3
    monitor.phase_finish("Timing graph nodes")
    assert monitor.step_complete("Building engine", 0)
    monitor.phase_finish("never started")
    assert lines == ["building: Building engine 0/4, Timing graph nodes 2/40", "building: Building engine 1/4"]


def test_a_stderr_that_has_gone_does_not_reach_tensorrt():
    def gone(line: str) -> None:
        raise BrokenPipeError

    monitor = BuildProgress(gone, seconds=0).monitor(real)
    monitor.phase_start("Building engine", None, 4)
    assert monitor.step_complete("Building engine", 0)
    assert monitor.step_complete("Building engine", 1)


def test_timing_cache_round_trip(gpu, capsys):
    gpu()
    proto = toy_graph("custom", FIXED)
    path = default_path("10.3.0", "Pretend GPU")
    assert path == Path("artifacts/tensorrt-10.3.0-pretend-gpu.timing-cache")
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    assert path.read_bytes() == b"timing cache of 10.3.0:kernels "
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    assert path.read_bytes() == b"timing cache of 10.3.0:kernels kernels "
    assert "measured again" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"timing cache of 11.4.0:kernels ", b"garbage"])
def test_a_cache_of_another_version_or_none_is_begun_again(gpu, capsys, content):
    gpu()
    proto = toy_graph("custom", FIXED)
    cache = Path("cache")
    cache.write_bytes(content)
    build_tensorrt_engine(proto, described(proto), Path("x.engine"), TensorrtOptions(timing_cache=cache))
    assert cache.read_bytes() == b"timing cache of 10.3.0:kernels "
    assert "cache: not of this device and this TensorRT, or damaged" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_does_not_cost_the_engine(gpu, capsys):
    gpu()
    proto = toy_graph("custom", FIXED)
    Path("file").touch()
    options = TensorrtOptions(timing_cache=Path("file/cache"))
    build_tensorrt_engine(proto, described(proto), Path("x.engine"), options)
    assert "file/cache: cannot be written" in capsys.readouterr().err
    assert Path("x.engine/model.plan").is_file()


def test_without_plugins_auto_takes_onnxruntime(gpu, capsys):
    gpu(library=None)
    assert main([str(written(toy_graph("standard", FIXED)))]) == 0
    assert "backend onnxruntime" in capsys.readouterr().err


def test_with_all_of_it_auto_takes_tensorrt(gpu, capsys):
    gpu()
    assert main([str(written(toy_graph("custom", FIXED)))]) == 0
    assert "backend tensorrt: an NVIDIA GPU, TensorRT and the plugins are here" in capsys.readouterr().err


def test_an_engine_without_plugins_names_none(gpu):
    gpu(library=None)
    proto = toy_graph("standard", FIXED)
    spec = build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    assert (spec.ops, spec.plugin_sha256) == ("standard", None)
