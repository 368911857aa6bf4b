"""The TensorRT builder on a pretended GPU, when something fails: one line, and nothing left half written."""

import errno
import itertools
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from builder_testing import described, gpu_fixture, left, library_fixture, refused, written  # noqa: F401
from tiny_export import DYNAMIC, FIXED
from toy_graph import toy_graph

from mask2edge.export.build_engine import main
from mask2edge.export.tensorrt_builder import build_tensorrt_engine, require_ops
from mask2edge.export.tensorrt_options import TensorrtOptions
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import EngineSpec, Profile


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_error_in_each_call_is_one_line_and_leaves_nothing(gpu, monkeypatch):
    """Every call of TensorRT's and CUDA's fails once; calls of the timing cache alone do not stop a build."""
    proto = toy_graph("custom", DYNAMIC)
    survived, failed = set(), []
    for number in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            machine = gpu(DYNAMIC, patch=patch, fail_at=number)
            options = TensorrtOptions(timing_cache=Path("cache"))
            problem = ""
            try:
                build_tensorrt_engine(proto, described(proto), Path("x.engine"), options)
            except InputError as error:
                problem = str(error)
            if problem:
                assert "\n" not in problem, machine.failed
                assert len(problem) > 20, machine.failed
                assert left() in ([], ["cache"]), machine.failed
                failed.append(machine.failed)
            elif not machine.failed:
                break
            else:
                survived.add(machine.failed)
                shutil.rmtree("x.engine")
            assert (machine.leaks(), machine.violations) == ([], []), machine.failed
            Path("cache").unlink(missing_ok=True)
    assert {
        "load_library", "Builder", "create_network", "supports_operator", "parse", "create_builder_config",
        "clear_flag", "create_optimization_profile", "set_shape", "add_optimization_profile",
        "build_serialized_network", "deserialize_cuda_engine", "create_engine_inspector",
        "get_engine_information", "execute_async_v3",
    } <= set(failed)  # fmt: skip
    assert {"create_timing_cache", "set_timing_cache", "serialize"} <= survived


def test_parser_errors_name_the_node(gpu, capsys):
    machine = gpu()
    machine.parser_errors = [(17, "node_conv2d_3", "Conv", "Assertion failed: kernels\nmore"), (18, "", "", "x")]
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt")
    assert "TensorRT's parser stopped at node node_conv2d_3 (Conv): Assertion failed: kernels; 1 more errors" in line
    assert left() == ["model.onnx"]


def test_parser_errors_without_a_name_use_the_graphs(gpu, capsys):
    machine = gpu()
    proto = toy_graph("custom", FIXED)
    machine.parser_errors = [(2, "", "", "Invalid Node")]
    line = refused(capsys, written(proto), "--backend", "tensorrt")
    assert f"({proto.graph.node[2].op_type}): Invalid Node" in line


def test_unknown_operators_are_listed_before_the_parser(gpu, capsys):
    machine = gpu()
    proto = toy_graph("custom", FIXED)
    proto.graph.node.add(op_type="Swirl", domain="com.example", input=["pixels"], output=["swirled"])
    proto.graph.node.add(op_type="MaskedAttentionV2", domain="mask2edge", input=["pixels"], output=["other"])
    line = refused(capsys, written(proto), "--backend", "tensorrt")
    assert "unknown operators com.example.Swirl, mask2edge.MaskedAttentionV2: expected" in line
    assert "parse" not in machine.journal
    assert left() == ["model.onnx"]


def test_operators_that_this_tensorrt_does_not_know_are_listed(gpu, capsys):
    machine = gpu()
    machine.unsupported = {"Transpose", "LayerNormalization", "Resize"}
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt")
    assert "does not know the operators LayerNormalization, Transpose" in line
    assert "parse" not in machine.journal


def test_why_a_build_failed_is_the_first_error(gpu, capsys):
    machine = gpu()
    source = written(toy_graph("custom", FIXED))
    machine.build_error = "Error Code 10: Could not find any implementation for node {ForeignNode[a...b]}\nin detail"
    line = refused(capsys, source, "--backend", "tensorrt")
    assert "TensorRT could not build the engine (Error Code 10: Could not find any implementation" in line
    assert "--optimization-level" in line
    machine.build_error = "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
    assert "--workspace" in refused(capsys, source, "--backend", "tensorrt")
    assert left() == ["model.onnx"]


def test_an_engine_that_does_not_run_gets_no_name(gpu, capsys):
    gpu(runs=b"no model at all")
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", "--timing-cache", "cache")
    assert "could not load the engine that it built" in line
    assert left() == ["cache", "model.onnx"]


def test_results_that_are_no_numbers_are_refused(gpu, capsys):
    broken = toy_graph("standard", FIXED)
    for tensor in broken.graph.initializer:
        if tensor.name == "classes":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    gpu(runs=broken.SerializeToString())
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", "--out", "x.engine")
    assert "the engine was built, but does not run: class_logits: expected finite numbers" in line
    assert not Path("x.engine").exists()


def test_an_inspector_that_gives_no_json(gpu, capsys):
    machine = gpu()
    machine.layers = "[1, 2"
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", "--out", "x.engine")
    assert "list the engine's layers" in line
    assert not Path("x.engine").exists()


@pytest.mark.parametrize("file", ["model.plan", "layers.json", "spec.json"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk(gpu, monkeypatch, capsys, file, number):
    gpu()
    source = written(toy_graph("custom", FIXED))
    for name in ("write_bytes", "write_text"):
        plain = getattr(Path, name)

        def write(self, *arguments, plain=plain, **options):
            if self.name == file:
                plain(self, arguments[0][:10], **options)  # the disk takes a part
                raise OSError(number, os.strerror(number))
            return plain(self, *arguments, **options)

        monkeypatch.setattr(Path, name, write)
    line = refused(capsys, source, "--backend", "tensorrt", "--out", "x.engine", "--timing-cache", "cache")
    assert f"x.engine: could not be written ({os.strerror(number)}" in line
    assert ("free some space" in line) == (number == errno.ENOSPC)
    assert left() == ["cache", "model.onnx"]


def test_control_c_stops_the_build(gpu, capsys):
    """A real signal in the middle of a build: the monitor says so to TensorRT, and nothing is left."""
    # The signal reaches Python between two instructions of the main thread: let the build wait for that.
    machine = gpu()
    stopped = threading.Event()
    machine.during_build = lambda: (os.kill(os.getpid(), signal.SIGINT), stopped.wait(0.5))
    assert main([str(written(toy_graph("custom", FIXED))), "--backend", "tensorrt"]) == 130
    assert machine.steps_answered[-1] is False
    assert len(machine.steps_answered) < 10
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "interrupted"
    assert any(line.startswith("stopping") for line in lines)
    assert left() == ["model.onnx"]
    assert (machine.leaks(), machine.violations) == ([], [])


def test_other_things_are_not_replaced(gpu, capsys):
    machine = gpu()
    Path("photos.engine").mkdir()
    Path("photos.engine/cat.jpg").write_bytes(b"cat")
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", "--out", "photos.engine")
    assert "is no engine" in line
    assert machine.journal == []  # known before the build


@pytest.mark.parametrize(
    ("version", "expected", "message"),
    [(1, None, "libmask2edge_tensorrt.so was not built"), (2, "file", "has ops of version 2, expected version 1")],
)
def test_a_plugin_library_that_is_none(gpu, library, monkeypatch, capsys, version, expected, message):
    gpu(library=library if expected else None)
    if not expected:
        monkeypatch.delenv("MASK2EDGE_PLUGIN_LIBRARY")
    monkeypatch.setattr("mask2edge.trt_plugins.plugin_library_version", lambda library: version)
    assert message in refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt")
    assert left() == ["model.onnx"]


@pytest.mark.parametrize("version", ["10.13.0.35", "10.13.3.9", "10.16.1", "11.0.0", "11.1.0.99"])
def test_standard_ops_are_refused_where_grid_sample_is_wrong(gpu, capsys, version):
    gpu(version=version, library=None)
    line = refused(capsys, written(toy_graph("standard", FIXED)), "--backend", "tensorrt")
    assert f"TensorRT {version} calculates GridSample wrongly" in line
    assert "--ops custom" in line


@pytest.mark.parametrize("version", ["10.3.0", "10.12.0.36", "11.2.0", "11.4.0.106", "12.0"])
def test_standard_ops_are_built_with_a_warning_elsewhere(version, capsys):
    require_ops("standard", version)
    assert "use --ops custom" in capsys.readouterr().err
    require_ops("custom", "11.0.0")
    assert capsys.readouterr().err == ""


def test_bfloat16_wants_its_hardware(gpu, capsys):
    gpu(sm=75)
    line = refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", "--bf16")
    assert "Pretend GPU has compute capability 7.5, and bfloat16 needs 8.0; use --fp16" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workspace", "0"], "--workspace: expected at least 1 MiB"),
        (["--optimization-level", "6"], "--optimization-level: expected 0 to 5, got 6"),
        (["--timing-cache", "."], "--timing-cache: expected the name of a file"),
        (["--precision-override", "backbone"], "expected NODE=TYPE"),
        (["--precision-override", "backbone=int8"], "expected fp32, fp16 or bf16, got 'int8'"),
        (["--fp16", "--precision-override", "nowhere=fp32"], "override nowhere: expected the name of a node"),
        (["--size", "64x64"], "whose input is 1x64x96"),
        (["--int8"], "--int8: expected --calibration DIR, got none"),
        (["--out", "x"], "ending in .engine"),
    ],
)
def test_bad_flags(gpu, capsys, arguments, message):
    gpu()
    assert message in refused(capsys, written(toy_graph("custom", FIXED)), "--backend", "tensorrt", *arguments)
    assert left() == ["model.onnx"]


def test_replacing_an_engine_keeps_the_old_one_until_the_new_one_runs(gpu, capsys):
    machine = gpu()
    proto = toy_graph("custom", FIXED)
    source = written(proto)
    build_tensorrt_engine(proto, described(proto), Path("x.engine"))
    before = Path("x.engine/spec.json").read_bytes()
    machine.build_error = "Error Code 10"
    refused(capsys, source, "--backend", "tensorrt", "--out", "x.engine")
    assert Path("x.engine/spec.json").read_bytes() == before
    assert Profile(*EngineSpec.load(Path("x.engine")).profile.__dict__.values()) == FIXED
