"""Which TensorRT engines are refused, each with one line, and how plugins come in."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cuda_doubles import Machine
from tensorrt_doubles import VERSION, ICudaEngine, IExecutionContext, install, real, write_plan_engine

from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.spec import EngineSpec
from mask2edge.runtime.tensorrt_engine import process_logger

LIBRARY = b"a library"
CUSTOM = {"ops": "custom", "plugin_sha256": hashlib.sha256(LIBRARY).hexdigest()}


@pytest.fixture
def gpu(monkeypatch, tmp_path, toy_spec) -> Callable[..., Machine]:
    """gpu(library=True, version=VERSION, **arguments of Machine): a pretended GPU."""

    def make(library: bool = True, version: str = VERSION, **machine: object) -> Machine:
        file = tmp_path / "libmask2edge_tensorrt.so"
        file.write_bytes(LIBRARY)
        monkeypatch.setattr("mask2edge.trt_plugins.why_no_plugin_library", lambda: "no compiler; install nvcc")
        return install(monkeypatch, Machine(**machine), version, file if library else None, toy_spec())

    return make


def no_driver(patch):
    patch.setattr("mask2edge.runtime.session_tensorrt.cuda_obstacle", lambda: "no CUDA driver was found (x)")


def no_tensorrt(patch):
    patch.setitem(sys.modules, "tensorrt", None)


def half_precision(patch):
    patch.setattr(ICudaEngine, "get_tensor_dtype", lambda self, name: real.DataType.HALF)


def on_the_host(patch):
    patch.setattr(ICudaEngine, "get_tensor_location", lambda self, name: real.TensorLocation.HOST)


def another_profile(patch):
    shapes = [real.Dims([1, 3, 64, 64])] * 3
    patch.setattr(ICudaEngine, "get_tensor_profile_shape", lambda self, name, profile_index: shapes)


def other_names(patch):
    patch.setattr(ICudaEngine, "get_tensor_name", lambda self, index: f"tensor{index}")
    patch.setattr(ICudaEngine, "get_tensor_mode", lambda self, name: real.TensorIOMode.OUTPUT)


def fewer_classes(spec: EngineSpec) -> EngineSpec:
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, labels=spec.model.labels[:3]))


@pytest.mark.parametrize(
    ("device", "changes", "spoil", "message"),
    [
        ({}, {}, no_driver, "this engine runs on an NVIDIA GPU, and no CUDA driver was found"),
        ({}, {}, no_tensorrt, "whose Python package cannot be imported"),
        ({"version": "10.13.3.9"}, {}, None, "built with TensorRT 10.3.0, and 10.13.3.9 is installed; build"),
        ({"version": "9.3"}, {"version_compatible": True}, None, "9.3 is installed, which is older"),
        ({"version": "11.4.0"}, {"version_compatible": True}, None, "point MASK2EDGE_LEAN_RUNTIME at"),
        ({"sm": 110}, {}, None, r"compute capability 8\.7, and Pretend GPU has 11\.0; build the engine again"),
        ({}, {"sm": None}, None, "built for compute capability unknown"),
        ({"library": False}, CUSTOM, None, "needs the TensorRT plugins: no compiler; install nvcc"),
        ({}, CUSTOM | {"op_library_version": 2}, None, "made for version 2 of the native ops, and 1 is installed"),
        ({}, CUSTOM | {"plugin_sha256": "0" * 64}, None, "built with another plugin library than"),
        ({}, CUSTOM | {"plugin_sha256": None}, None, "built with another plugin library than"),
        ({}, fewer_classes, None, r"expected class_logits as float32 \[1..4, 6, 4\] on the device, got .*\[-1, 6, 5\]"),
        ({}, {}, half_precision, "expected pixels as float32 .* got DataType.HALF"),
        ({}, {}, on_the_host, "expected pixels as float32 .* on the device"),
        ({}, {}, another_profile, r"expected a plan for \[1, 3, 32, 32\] to \[4, 3, 128, 128\]"),
        ({}, {}, other_names, "expected input pixels and outputs class_logits, mask_logits, got tensor0"),
        ({}, {"files": {"model.onnx": "0"}}, None, "expected model.plan among the files"),
        ({}, {"plugin_sha256": 1}, None, "plugin_sha256 is of the wrong kind"),
        ({}, {"sm": "87"}, None, "sm is of the wrong kind"),
        ({}, {"backend_version": 10.3}, None, "backend_version is of the wrong kind"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(make_engine, gpu, monkeypatch, device, changes, spoil, message):
    folder = write_plan_engine(make_engine())
    spec = EngineSpec.load(folder)
    (changes(spec) if callable(changes) else dataclasses.replace(spec, **changes)).save(folder)
    machine = gpu(**device)
    if spoil:
        spoil(monkeypatch)
    with pytest.raises(InputError, match=message) as caught:
        Segmenter.load(folder)
    assert "\n" not in str(caught.value)
    del caught
    assert (machine.leaks(), machine.violations) == ([], [])


def test_nothing_of_tensorrt_is_touched_before_the_checks(make_engine, gpu):
    folder = write_plan_engine(make_engine(), **CUSTOM | {"plugin_sha256": "0" * 64})
    machine = gpu()
    with pytest.raises(InputError):
        Segmenter.load(folder)
    assert {"Runtime", "load_library"}.isdisjoint(machine.journal)


def test_a_damaged_plan(make_engine, gpu):
    def load(plan: bytes) -> str:
        (folder / "model.plan").write_bytes(plan)
        spec = EngineSpec.load(folder)
        dataclasses.replace(spec, files={"model.plan": sha256_of(folder / "model.plan")}).save(folder)
        with pytest.raises(InputError) as caught:
            Segmenter.load(folder)
        return str(caught.value)

    folder = write_plan_engine(make_engine())
    machine = gpu()
    assert "could not load the engine (IRuntime::deserializeCudaEngine: Error Code 1: the serialized" in load(
        b"no plan"
    )
    assert "could not load the engine" in load((folder / "model.plan").read_bytes()[:90])
    (folder / "model.plan").write_bytes(b"changed")
    with pytest.raises(InputError, match="sha256 differs"):
        Segmenter.load(folder)
    (folder / "model.plan").unlink()
    with pytest.raises(InputError, match=r"model\.plan: missing"):
        Segmenter.load(folder)
    assert (machine.leaks(), machine.violations) == ([], [])


def test_plugins_are_registered_once_in_a_process(make_engine, gpu, picture):
    machine = gpu()
    folders = [write_plan_engine(make_engine(name=name), **CUSTOM) for name in ("one", "other")]
    with Segmenter.load(folders[0]) as one, Segmenter.load(folders[1]) as other:
        np.testing.assert_array_equal(one(picture).label_map, other(picture).label_map)
    assert machine.journal.count("load_library") == 1
    first_engine = machine.journal.index("deserialize_cuda_engine")
    assert machine.journal.index("load_library") < first_engine
    assert (machine.leaks(), machine.violations) == ([], [])


def test_plugins_that_tensorrt_does_not_take(make_engine, gpu, monkeypatch):
    machine = gpu()
    monkeypatch.setattr(machine, "fails", lambda name: name == "load_library")
    with pytest.raises(InputError, match="did not register MultiscaleDeformableAttention, MaskedAttention"):
        Segmenter.load(write_plan_engine(make_engine(), **CUSTOM))
    assert (machine.leaks(), machine.violations) == ([], [])


def test_a_newer_tensorrt_takes_the_lean_runtime_that_is_named(make_engine, gpu, picture, monkeypatch):
    machine = gpu(version="10.13.3")
    monkeypatch.setenv("MASK2EDGE_LEAN_RUNTIME", "/lean/libnvinfer_lean.so.10.3.0")
    with Segmenter.load(write_plan_engine(make_engine(), version_compatible=True, **CUSTOM)) as segmenter:
        assert len(segmenter(picture).segments) == 3
    assert "load_runtime /lean/libnvinfer_lean.so.10.3.0" in machine.journal
    assert (machine.leaks(), machine.violations) == ([], [])


def test_outputs_of_other_sizes_than_the_spec_says(make_engine, gpu, picture, monkeypatch):
    machine = gpu()
    monkeypatch.setattr(IExecutionContext, "get_tensor_shape", lambda self, name: real.Dims([1, 6, 5, 5]))
    message = r"class_logits: expected \[1, 6, 5\] of the engine, got \[1, 6, 5, 5\]"
    with Segmenter.load(write_plan_engine(make_engine())) as segmenter, pytest.raises(InputError, match=message):
        segmenter(picture)
    assert (machine.leaks(), machine.violations) == ([], [])


@pytest.mark.parametrize("contexts", [0, -1, 1.5, True, "2"])
def test_contexts(make_engine, gpu, contexts):
    gpu()
    with pytest.raises(InputError, match="contexts: expected 1 or more"):
        Segmenter.load(write_plan_engine(make_engine()), contexts=contexts)


def test_the_logger_of_the_real_bindings_keeps_errors_alone():
    logger, lines = process_logger(real)
    assert process_logger(real)[0] is logger
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(real.ILogger.Severity, name), name)
    assert list(lines) == ["INTERNAL_ERROR", "ERROR"]
    lines.clear()
