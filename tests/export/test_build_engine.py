"""Engines from checkpoints and ONNX files: what they hold, what is refused, and that nothing is left half written."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_export import FIXED, QUERIES, needs_library, tiny_spec

from mask2edge.export.build_engine import main, parse
from mask2edge.export.engine_sources import graph_of
from mask2edge.export.half_storage import store_half
from mask2edge.export.input_sizes import profile_from_arguments
from mask2edge.export.onnx_metadata import read_description
from mask2edge.export.stage_comparison import noise, runner
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.session_onnxruntime import OnnxRuntimeSession
from mask2edge.runtime.spec import EngineSpec, Profile


@pytest.fixture(scope="module")
def onnx_file(exported, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(exported("standard", FIXED), path)
    return path


@pytest.fixture(scope="module")
def half_file(exported, tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "tiny.onnx"
    onnx.save(store_half(exported("standard", FIXED)), path)
    return path


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments):
    """The one line of a refusal."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *progress, line = captured.err.splitlines()
    assert all(text.startswith("backend ") for text in progress)
    assert line.startswith("error: ")
    return line


def test_engine_from_onnx(onnx_file, exported, tmp_path, capsys):
    assert main([str(onnx_file)]) == 0
    folder = tmp_path / "artifacts" / "tiny-fp32.engine"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "spec.json"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "model.onnx").read_bytes() == onnx_file.read_bytes()
    spec = EngineSpec.load(folder)
    import onnxruntime

    assert spec == EngineSpec(
        model=tiny_spec(),
        profile=FIXED,
        backend="onnxruntime",
        backend_version=onnxruntime.__version__,
        precision="fp32",
        ops="standard",
        op_library_version=1,
        files={"model.onnx": sha256_of(onnx_file)},
        checkpoint_sha256="0" * 64,
    )
    pixels = noise(1, 64, 96)
    expected = runner(exported("standard", FIXED))({"pixels": pixels})
    found = OnnxRuntimeSession(folder, spec, 1).run(pixels)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    output = capsys.readouterr().out
    assert "tiny-fp32.engine" in output
    assert "MB, built in" in output


def test_engine_from_checkpoint(checkpoint, tmp_path, capsys):
    out = tmp_path / "a" / "b.engine"
    assert main([str(checkpoint), "--fp16", "--ops", "standard", "--size", "64x64", "--out", str(out)]) == 0
    spec = EngineSpec.load(out)
    spec.verify_files(out)
    assert spec.precision == "fp16"
    assert spec.profile == Profile.fixed(64, 64)
    assert spec.checkpoint_sha256 == sha256_of(checkpoint)
    captured = capsys.readouterr()
    assert "half-precision storage, fp32 arithmetic on the CPU" in captured.out
    assert "decoder layer 0" in captured.err
    half = (out / "model.onnx").stat().st_size
    assert half < 0.6 * checkpoint.stat().st_size


def test_fp16_from_onnx_is_about_half(onnx_file, tmp_path, capsys):
    assert main([str(onnx_file), "--fp16"]) == 0
    half = tmp_path / "artifacts" / "tiny-fp16.engine"
    assert "half-precision storage, fp32 arithmetic on the CPU" in capsys.readouterr().out
    assert (half / "model.onnx").stat().st_size < 0.7 * onnx_file.stat().st_size  # a tiny net: much of it is no weight
    pixels = noise(1, 64, 96)
    expected = runner(onnx.load(onnx_file))({"pixels": pixels})["class_logits"]
    found = OnnxRuntimeSession(half, EngineSpec.load(half), 1).run(pixels)["class_logits"]
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_half_file_stays_half_unless_asked(half_file, tmp_path, capsys):
    assert main([str(half_file)]) == 0
    folder = tmp_path / "artifacts" / "tiny-fp16.engine"
    assert (folder / "model.onnx").read_bytes() == half_file.read_bytes()
    assert main([str(half_file), "--fp32"]) == 0
    assert "rounded to half precision before" in capsys.readouterr().err
    assert EngineSpec.load(tmp_path / "artifacts" / "tiny-fp32.engine").precision == "fp32"


@needs_library
def test_custom_ops_are_chosen_where_their_library_is(checkpoint, tmp_path):
    assert main([str(checkpoint), "--size", "32x64", "--batch", "2"]) == 0
    folder = tmp_path / "artifacts" / "tiny-fp32.engine"
    spec = EngineSpec.load(folder)
    assert spec.ops == "custom"
    assert spec.profile == Profile.fixed(32, 64, batch=2)
    assert OnnxRuntimeSession(folder, spec, 1).run(noise(2, 32, 64))["mask_logits"].shape == (2, QUERIES, 8, 16)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Profile.fixed(64, 96)),
        (["--size", "32x64", "--batch", "3"], Profile.fixed(32, 64, 3)),
        # By default whatever the preprocessing gives fits, standing or lying.
        (["--dynamic"], Profile((1, 32, 32), (1, 64, 96), (4, 96, 96))),
        (["--dynamic", "--max", "2x64x64"], Profile((1, 32, 32), (1, 64, 64), (2, 64, 64))),
        (
            ["--dynamic", "--min", "2x64x64", "--opt", "2x96x96", "--max", "4x128x160"],
            Profile((2, 64, 64), (2, 96, 96), (4, 128, 160)),
        ),
    ],
)
def test_profiles_of_the_command_line(words, expected):
    assert profile_from_arguments(parse(["x", *words]), tiny_spec()) == expected


def test_an_engine_is_replaced_and_other_things_are_not(onnx_file, tmp_path, capsys):
    out = tmp_path / "x.engine"
    assert main([str(onnx_file), "--out", str(out)]) == 0
    assert main([str(onnx_file), "--out", str(out)]) == 0
    photographs = tmp_path / "photos.engine"
    photographs.mkdir()
    (photographs / "cat.jpg").write_bytes(b"cat")
    capsys.readouterr()
    assert "is no engine" in refused(capsys, onnx_file, "--out", photographs)
    assert (photographs / "cat.jpg").read_bytes() == b"cat"


@pytest.mark.parametrize("failing", ["OnnxRuntimeSession", "sha256_of"])
def test_a_failure_leaves_nothing(onnx_file, tmp_path, monkeypatch, capsys, failing):
    def fail(*arguments):
        raise InputError("no space left on device")

    monkeypatch.setattr(f"mask2edge.export.onnxruntime_builder.{failing}", fail)
    assert "no space left" in refused(capsys, onnx_file, "--out", tmp_path / "x.engine")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_refused(exported, tmp_path, capsys):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported("standard", FIXED))
    for tensor in proto.graph.initializer:
        if tensor.name == "mask_decoder.class_head.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    onnx.save(proto, tmp_path / "broken.onnx")
    assert "class_logits: expected finite numbers" in refused(capsys, "broken.onnx")
    assert [path.name for path in tmp_path.rglob("*")] == ["broken.onnx", "artifacts"] or not (
        tmp_path / "artifacts" / "broken-fp32.engine"
    ).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.safetensors"], "no such file"),
        (["nowhere.onnx"], "no such file"),
        (["{checkpoint}", "--size", "65x64"], "multiples of 32"),
        (["{checkpoint}", "--max", "1x64x64"], "together with --dynamic"),
        (["{checkpoint}", "--int8"], "--int8: expected --calibration DIR, got none"),
        (["{checkpoint}", "--bf16"], "--bf16: not available in this version on onnxruntime"),
        (["{checkpoint}", "--calibration", "."], "together with --int8"),
        (["{checkpoint}", "--out", "engine"], "ending in .engine"),
        (["{onnx}", "--size", "64x64"], "whose input is 1x64x96"),
        (["{onnx}", "--dynamic"], "whose input is 1x64x96"),
        (["{onnx}", "--ops", "custom"], "has standard ops"),
        (["{onnx}", "--int8"], "--int8: expected --calibration DIR, got none"),
        (["{truncated checkpoint}"], "expected a whole .safetensors file"),
        (["{truncated onnx}"], "expected a whole ONNX file"),
        (["{empty onnx}"], "without our description"),
        (["{text onnx}"], "expected"),
        (["{foreign onnx}"], "without our description"),
        (["{newer onnx}"], "expected ONNX schema 1, got 2"),
        (["{damaged onnx}"], "description is damaged"),
    ],
)
def test_bad_input(checkpoint, onnx_file, exported, tmp_path_factory, tmp_path, capsys, arguments, message):
    inputs = tmp_path_factory.mktemp("inputs")

    def written(name, content):
        (inputs / name).write_bytes(content)
        return inputs / name

    def described(change):
        proto = onnx.ModelProto()
        proto.CopyFrom(exported("standard", FIXED))
        kept = [entry for entry in proto.metadata_props if change(entry)]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        return proto.SerializeToString()

    def newer(entry):
        entry.value = "2" if entry.key == "mask2edge.schema" else entry.value
        return True

    files = {
        "{checkpoint}": lambda: checkpoint,
        "{onnx}": lambda: onnx_file,
        "{truncated checkpoint}": lambda: written("half.safetensors", checkpoint.read_bytes()[:-100]),
        "{truncated onnx}": lambda: written("cut.onnx", onnx_file.read_bytes()[: onnx_file.stat().st_size // 2]),
        "{empty onnx}": lambda: written("empty.onnx", b""),
        "{text onnx}": lambda: written("text.onnx", b"this is no model at all\n"),
        "{foreign onnx}": lambda: written("foreign.onnx", described(lambda entry: False)),
        "{newer onnx}": lambda: written("newer.onnx", described(newer)),
        "{damaged onnx}": lambda: written("damaged.onnx", described(lambda entry: entry.key != "mask2edge.profile")),
    }
    line = refused(capsys, *(files[word]() if word in files else word for word in arguments))
    assert message in line
    assert not list(tmp_path.iterdir())


def test_unknown_flag(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["x.onnx", "--fp8"])
    assert stopped.value.code == 2


def test_a_file_with_custom_ops_needs_their_library(exported, tmp_path, monkeypatch, capsys):
    onnx.save(exported("custom", FIXED), tmp_path / "custom.onnx")
    monkeypatch.setenv("MASK2EDGE_OPS_LIBRARY", "/nowhere.so")
    line = refused(capsys, "custom.onnx")
    assert "--ops standard" in line
    assert "MASK2EDGE_OPS_LIBRARY" in line


def test_no_file_named(onnx_file, tmp_path, monkeypatch, capsys):
    """The shipped checkpoint where torch is; the shipped ONNX file where it is not."""
    from mask2edge.export import build_engine

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "street-lite.safetensors").touch()
    assert build_engine.default_source().name == "street-lite.safetensors"
    monkeypatch.setattr(build_engine.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "models" / "street-lite.onnx").touch()
    assert build_engine.default_source().name == "street-lite.onnx"
    assert "needs torch" in refused(capsys, "models/street-lite.safetensors")
    monkeypatch.setattr(build_engine, "DEFAULT_MODEL", "nothing")
    assert "the demo model is not here" in refused(capsys)


def test_tensorrt_is_refused_in_one_line(onnx_file, tmp_path, capsys):
    line = refused(capsys, onnx_file, "--fp16", "--backend", "tensorrt")
    assert "TensorRT needs an NVIDIA GPU" in line or "tensorrt" in line
    assert "--backend onnxruntime, or --dry-run" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--workspace=1", "--timing-cache=x", "--optimization-level=1", "--tf32", "--refit"])
def test_flags_of_tensorrt_alone(onnx_file, capsys, flag):
    name = flag.partition("=")[0]
    assert f"{name}: expected together with --backend tensorrt" in refused(
        capsys, onnx_file, "--backend", "onnxruntime", flag
    )


def test_a_full_disk(onnx_file, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mask2edge.export.onnxruntime_builder.shutil.copyfile", fail)
    line = refused(capsys, onnx_file, "--out", tmp_path / "x.engine")
    assert "x.engine: could not be written (No space left on device; free some space" in line
    assert not list(tmp_path.iterdir())


def test_types_need_onnx(onnx_file, monkeypatch):
    arguments = parse([str(onnx_file), "--fp16", "--backend", "tensorrt"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--fp16: .* needs the package onnx; pip install onnx"):
        graph_of(onnx_file, arguments, "tensorrt")


def test_json(onnx_file, capsys):
    assert main([str(onnx_file), "--json", "--out", "x.engine"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["engine"], report["backend"], report["precision"]) == ("x.engine", "onnxruntime", "fp32")
    assert report["profile"] == {"min": [1, 64, 96], "opt": [1, 64, 96], "max": [1, 64, 96]}


@pytest.mark.parametrize(("flag", "has_onnx"), [("--fp32", False), ("--fp32", True), ("--fp16", True)])
def test_imports_of_a_build_from_onnx(onnx_file, tmp_path, flag, has_onnx):
    """As on a device: neither torch nor the training code; without onnx too where nothing has to be converted."""
    code = (
        "import sys, json\n"
        f"if not {has_onnx}: sys.modules['onnx'] = None\n"
        "from mask2edge.export.build_engine import main\n"
        f"assert main([{str(onnx_file)!r}, {flag!r}, '--backend', 'onnxruntime']) == 0\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in modules if name in ("torch", "mask2edge.train") or name.startswith("torch.")]


@pytest.mark.parametrize("has_onnx", [True, False])
def test_nodes_are_fused_for_the_cpu_where_onnx_is(has_onnx, monkeypatch, capsys):
    shipped = Path(__file__).resolve().parents[2] / "models" / "street-lite.onnx"
    if not has_onnx:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    graph = graph_of(shipped, parse([str(shipped), "--fp16"]), "onnxruntime")
    if has_onnx:
        assert "AddLayerNormalization" in {node.op_type for node in graph.model.graph.node}
    else:
        assert graph.model == shipped
    assert ("used as it is; with the package onnx" in capsys.readouterr().err) == (not has_onnx)


def test_imports_of_a_tensorrt_build_from_onnx(onnx_file, tmp_path):
    """On a device that has neither onnx nor torch, all that comes before TensorRT's first call works."""
    code = (
        "import sys, json\n"
        "sys.modules['onnx'] = None  # not installed\n"
        "from mask2edge.export import build_engine, tensorrt_builder\n"
        "from mask2edge.export.onnx_nodes import nodes_of, with_plugin_namespace\n"
        f"arguments = build_engine.parse([{str(onnx_file)!r}, '--fp32', '--backend', 'tensorrt'])\n"
        "build_engine.check_flags(arguments, 'tensorrt')\n"
        "graph = build_engine.graph_of(arguments.source, arguments, 'tensorrt')\n"
        "model = graph.model.read_bytes()\n"
        "assert nodes_of(with_plugin_namespace(model))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "its constants are not folded beforehand, which takes the package onnx" in done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "onnxruntime", "tensorrt", "mask2edge.train"} & set(modules)


def test_a_description_is_read_without_the_weights(onnx_file, half_file):
    assert read_description(onnx_file).spec == tiny_spec()
    assert read_description(half_file).precision == "fp16"
