"""The dry run: what is printed, what is found in a graph, and that it needs no GPU and writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from native_build import Unavailable, build_plugins
from onnx import TensorProto, helper
from tiny_export import CLASSES, DYNAMIC, FIXED, QUERIES
from toy_graph import toy_graph

from mask2edge.export.build_engine import main
from mask2edge.export.dry_run import dry_run
from mask2edge.export.graph_shapes import tensor_shapes
from mask2edge.export.half_storage import metadata_of
from mask2edge.export.memory_estimate import estimate_memory
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.precision import typed_graph
from mask2edge.export.type_check import type_conflicts
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MASK2EDGE_PLUGIN_LIBRARY", raising=False)


def described(proto: onnx.ModelProto) -> Description:
    return Description.from_metadata(metadata_of(proto), "the graph")


def refused(capsys, *arguments: str) -> str:
    assert main([*arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_from_a_checkpoint(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), "--fp16", "--size", "64x64", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "artifacts/tiny-fp16.engine; nothing was written" in output
    assert "1 MultiscaleDeformableAttention, 1 MaskedAttention" in output
    assert "profile      1x3x64x64" in output
    assert "precision fp16:" in output
    assert not list(tmp_path.iterdir())


def test_json(tmp_path, capsys):
    onnx.save(toy_graph("custom", DYNAMIC), "toy.onnx")
    arguments = ["--dry-run", "--bf16", "--json", "--backend", "tensorrt", "--precision-override", "conv=fp32"]
    assert main(["toy.onnx", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["ops"], report["nodes"], report["opset"]) == ("bf16", "custom", 16, 18)
    assert report["ours"] == [{"name": "node_masked_attention", "op": "MaskedAttention"}]
    assert report["profile"] == {"min": [1, 32, 32], "opt": [1, 64, 96], "max": [3, 256, 256]}
    assert report["input_and_output_bytes"] == {"fp32": 4 * 3 * (3 * 256 * 256 + QUERIES * (CLASSES + 1 + 64 * 64))}
    assert set(report["activation_bytes"]) == {"fp32", "bf16"}
    assert report["tensors_not_counted"] == 0
    assert any(row["nodes"].get("bf16") for row in report["precision_plan"])
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_what_the_real_tensorrt_registry_says(monkeypatch, capsys):
    """A library that is none is found out; where no TensorRT is installed, that is said."""
    onnx.save(toy_graph("custom", FIXED), "toy.onnx")
    assert main(["toy.onnx", "--dry-run"]) == 0
    assert "each has one" in capsys.readouterr().out
    with open("plugins.so", "w") as file:
        file.write("no library")
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", "plugins.so")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    assert "plugins.so does not load" in refused(capsys, "toy.onnx", "--dry-run")
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["toy.onnx", "--dry-run"]) == 0
    assert "no TensorRT is installed to register it in" in capsys.readouterr().out


def test_the_plugin_library_of_this_source_has_them_all():
    """In a process of its own: what is registered stays so."""
    pytest.importorskip("tensorrt_lean", reason="tensorrt-lean is not installed")
    try:
        library = build_plugins().library
    except Unavailable as reason:
        pytest.skip(str(reason))
    onnx.save(toy_graph("custom", FIXED), "toy.onnx")
    command = [sys.executable, str(ROOT / "export" / "build_engine.py"), "toy.onnx", "--dry-run", "--json"]
    environment = os.environ | {"MASK2EDGE_PLUGIN_LIBRARY": str(library)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["plugins"]
    assert said.startswith("libmask2edge_tensorrt.so registers in tensorrt")
    assert said.endswith("and has each of them")


def test_standard_ops_are_warned_of(capsys):
    onnx.save(toy_graph("standard", FIXED), "toy.onnx")
    assert main(["toy.onnx", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "GridSample wrongly" in output
    assert "plugins      none needed" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx"], "no such file"),
        (["toy.onnx", "--backend", "onnxruntime"], "--dry-run: expected --backend tensorrt"),
        (["toy.onnx", "--fp16", "--calibration", "."], "--calibration: expected together with --int8"),
        (["toy.onnx", "--size", "64x64"], "whose input is 1x64x96"),
        (["toy.onnx", "--ops", "standard"], "has custom ops"),
        (["toy.onnx", "--out", "x"], "ending in .engine"),
        (["toy.onnx", "--fp16", "--precision-override", "konv=fp32"], "near it: conv"),
        (["cut.onnx"], "expected a whole ONNX file"),
    ],
)
def test_bad_input(capsys, arguments, message):
    content = toy_graph("custom", FIXED).SerializeToString()
    for name, part in (("toy.onnx", content), ("cut.onnx", content[:-40])):
        with open(name, "wb") as file:
            file.write(part)
    assert message in refused(capsys, *arguments, "--dry-run")


def test_without_onnx(monkeypatch, capsys):
    onnx.save(toy_graph("custom", FIXED), "toy.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs the package onnx; pip install onnx" in refused(capsys, "toy.onnx", "--dry-run")


def test_unknown_operators(capsys):
    proto = toy_graph("custom", FIXED)
    proto.graph.node.add(op_type="Swirl", domain="com.example", input=["pixels"], output=["swirled"])
    onnx.save(proto, "toy.onnx")
    assert "unknown operators com.example.Swirl" in refused(capsys, "toy.onnx", "--dry-run")


def test_an_unsound_graph(capsys):
    proto = toy_graph("custom", FIXED)
    proto.graph.node[0].input[1] = "nowhere"
    onnx.save(proto, "toy.onnx")
    assert "expected a sound ONNX graph" in refused(capsys, "toy.onnx", "--dry-run")


def test_the_plan_is_the_graphs():
    proto = toy_graph("custom", FIXED)
    report = dry_run(proto, described(proto), "fp16")
    counted = {}
    for row in report.plan.rows:
        for precision, count in row.nodes.items():
            counted[precision] = counted.get(precision, 0) + count
    assert set(counted) == {"fp32", "fp16"}
    assert report.memory.weights["fp16"] > 0


# What is found in a graph


@pytest.mark.parametrize("ops", ["custom", "standard"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("profile", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
def test_every_shape_and_type_follows(ops, precision, profile):
    typed = typed_graph(toy_graph(ops, profile), precision)
    batch, height, width = profile.max
    shapes = tensor_shapes(typed, (batch, 3, height, width))
    assert shapes["mask_logits"] == (batch, QUERIES, height // 4, width // 4)
    assert shapes["class_logits"] == (batch, QUERIES, CLASSES + 1)
    assert shapes["attended"] == (batch, QUERIES, 16)
    assert all(name in shapes for node in typed.graph.node for name in node.output)
    assert type_conflicts(typed) == []


@pytest.mark.parametrize("name", ["street-lite", "street-lite-standard"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_shape_and_type_of_the_shipped_model_follows(name, precision):
    typed = typed_graph(onnx.load(ROOT / "models" / f"{name}.onnx"), precision)
    _, height, width = described(typed).profile.opt
    shapes = tensor_shapes(typed, (1, 3, height, width))
    assert all(name in shapes for node in typed.graph.node for name in node.output)
    assert shapes["pixel_decoder.fine"][2:] == (height // 4, width // 4)
    assert type_conflicts(typed) == []


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (("MatMul", ["half", "full"], {}), "half is float16 and full is float"),
        (("Concat", ["full", "half"], {"axis": 0}), "full is float and half is float16"),
        (("LayerNormalization", ["half", "full"], {}), "half is float16 and full is float"),
        (("MaskedAttention", ["half", "half", "full", "full"], {"domain": "mask2edge"}), "half is float16 and full"),
        (("MaskedAttention", ["half"] * 4, {"domain": "mask2edge"}), "as tensor(float), got float16"),
        (("MaskedAttention", ["half"], {"domain": "mask2edge"}), "expected 4 inputs, got 1"),
        (("Where", ["flag", "half", "full"], {}), "half is float16 and full is float"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_mixed_types_are_found(node, message):
    op, inputs, attributes = node
    values = {"half": TensorProto.FLOAT16, "full": TensorProto.FLOAT, "flag": TensorProto.BOOL}
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["out"], name="it", **attributes)],
        "g",
        [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in values.items()],
        [helper.make_tensor_value_info("full", TensorProto.FLOAT, [4, 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (found,) = [line for line in type_conflicts(proto) if line.startswith("it ")]
    assert message in found


def test_a_graph_with_mixed_types_is_refused(monkeypatch):
    proto = toy_graph("custom", FIXED)

    def forgetful(proto, precision, overrides):
        typed = typed_graph(proto, precision, overrides)
        for node in typed.graph.node:
            if node.op_type == "Cast":
                node.attribute[0].i = TensorProto.FLOAT
        return typed

    monkeypatch.setattr("mask2edge.export.dry_run.typed_graph", forgetful)
    with pytest.raises(InputError, match="takes no mixed types"):
        dry_run(proto, described(proto), "fp16")


def test_memory_by_hand():
    """Two branches of a map: both are alive with their source while the sum is made; views cost nothing."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["pixels", "weight"], ["a"]),  # 1x3x32x8 floats: 3072 bytes
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["a"], ["c"]),
        helper.make_node("Flatten", ["b"], ["b.flat"]),
        helper.make_node("Flatten", ["c"], ["c.flat"]),
        helper.make_node("Neg", ["constant"], ["folded"]),
        helper.make_node("Add", ["b.flat", "c.flat"], ["d"]),
        helper.make_node("Add", ["d", "folded"], ["out"]),
    ]
    constants = [
        helper.make_tensor("weight", TensorProto.FLOAT, [32, 8], [0.0] * 256),
        helper.make_tensor("constant", TensorProto.FLOAT, [768], [0.0] * 768),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("pixels", TensorProto.FLOAT, [1, 3, 32, 32])], [value("out", TensorProto.FLOAT, [1, 768])],
        constants,
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    found = estimate_memory(proto, Profile.fixed(32, 32))
    assert found.weights == {"fp32": 4 * 256 + 4 * 768}  # the constant is folded: its negative is stored
    assert found.inputs_and_outputs == {"fp32": 4 * 3 * 32 * 32 + 4 * 768}
    assert found.activations_by_type == {"fp32": 3 * 3072}  # a, b and c; then b, c and d
    assert (found.peak_at, found.unknown) == ("c", 0)


def test_memory_follows_the_types():
    proto = toy_graph("custom", DYNAMIC)
    full, half = (estimate_memory(typed_graph(proto, precision), DYNAMIC) for precision in ("fp32", "fp16"))
    assert sum(half.weights.values()) < 0.75 * sum(full.weights.values())
    assert half.activations < full.activations
    small = estimate_memory(proto, Profile.fixed(32, 32))
    assert full.activations > 100 * small.activations  # the largest input counts
