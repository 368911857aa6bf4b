"""The exported file: what is in it, and what it calculates on ONNX Runtime."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from tiny_export import CLASSES, DYNAMIC, FIXED, QUERIES, needs_library, tiny_spec

from mask2edge.export.half_storage import metadata_of, store_full, store_half
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.stage_comparison import (
    INJECTED,
    Comparison,
    compare,
    decides,
    noise,
    relative_error,
    require,
    runner,
    stage_names,
    with_injected_masks,
    with_stage_outputs,
)
from mask2edge.export.to_onnx import main
from mask2edge.export.verification import plain_stages, verify

KINDS = [
    pytest.param("standard", FIXED, id="standard-fixed"),
    pytest.param("standard", DYNAMIC, id="standard-dynamic"),
    pytest.param("custom", FIXED, id="custom-fixed", marks=needs_library),
    pytest.param("custom", DYNAMIC, id="custom-dynamic", marks=needs_library),
]


def shape_of(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("profile", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("ops", ["custom", "standard"])
def test_what_the_file_says(exported, ops, profile):
    proto = exported(ops, profile)
    opsets = {opset.domain: opset.version for opset in proto.opset_import}
    assert 17 <= opsets.pop("") <= 20
    assert opsets == ({"mask2edge": 1} if ops == "custom" else {})
    assert proto.ir_version in (8, 9)  # TensorRT 10.3's parser and ONNX Runtime 1.18 read them
    assert not proto.functions
    kinds = [node.op_type for node in proto.graph.node]
    assert not {"Identity", "Stage", "ReduceMean", "Pow"} & set(kinds)  # the last two: no LayerNorm was taken apart
    assert kinds.count("LayerNormalization") == 2 + 4 * 3 + 4  # encoder, decoder layers, predictions after them
    assert kinds.count("MultiscaleDeformableAttention") == (1 if ops == "custom" else 0)
    assert kinds.count("MaskedAttention") == (4 if ops == "custom" else 0)
    assert all(not node.metadata_props for node in proto.graph.node)
    batch, height, width = ("batch", "height", "width") if profile is DYNAMIC else FIXED.opt
    quarter = ["height/4", "width/4"] if profile is DYNAMIC else [height // 4, width // 4]
    assert [(x.name, shape_of(x)) for x in proto.graph.input] == [("pixels", [batch, 3, height, width])]
    assert [(x.name, shape_of(x)) for x in proto.graph.output] == [
        ("class_logits", [batch, QUERIES, CLASSES + 1]),
        ("mask_logits", [batch, QUERIES, *quarter]),
    ]


@pytest.mark.parametrize("profile", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
def test_stage_names_are_stable(exported, profile):
    decoder = [f"decoder.{i}.{kind}" for i in range(4) for kind in ("mask_logits", "queries")]
    assert set(stage_names(exported("standard", profile))) == {
        *(f"backbone.res{i}" for i in (2, 3, 4, 5)),
        *(f"pixel_decoder.{name}" for name in ("level32", "level16", "level8", "fine")),
        *decoder,
    }


@pytest.mark.parametrize("ops", ["custom", "standard"])
def test_metadata_round_trip(exported, ops):
    entries = metadata_of(exported(ops, DYNAMIC))
    assert entries["mask2edge.schema"] == "1"
    assert json.loads(entries["mask2edge.profile"])["max"] == [3, 256, 256]
    found = Description.from_metadata(entries, "file")
    assert found == Description(tiny_spec(), DYNAMIC, ops, "fp32", "0" * 64)


def test_a_fixed_file_holds_no_large_tables(exported):
    """Position tables are kept as factors, which the backend multiplies when it loads the file."""
    fixed, dynamic = exported("standard", FIXED).ByteSize(), exported("standard", DYNAMIC).ByteSize()
    assert fixed < 1.1 * dynamic


@pytest.mark.parametrize(("ops", "profile"), KINDS)
def test_every_stage_equals_the_plain_model(exported, network, ops, profile):
    comparison = verify(exported(ops, profile), network, profile)
    assert comparison.largest < 1e-4
    assert comparison.flips <= 1e-3 * comparison.mask_pixels
    assert len(comparison.errors) == 4 + 4 + 4 * 2 + 2


@pytest.mark.parametrize("ops", ["standard", pytest.param("custom", marks=needs_library)])
def test_dynamic_batch_and_size(exported, network, ops):
    proto = exported(ops, DYNAMIC)
    injected, free = runner(with_injected_masks(proto)), runner(with_stage_outputs(proto))
    for batch, height, width in [(1, 32, 32), (2, 64, 32), (3, 96, 160), (1, 256, 256)]:
        pixels = noise(batch, height, width)
        comparison = compare(plain_stages(network, pixels), injected, free, pixels)
        assert comparison.largest < 1e-4, (batch, height, width)
    single = free({"pixels": pixels})["class_logits"]
    double = free({"pixels": np.concatenate([pixels, pixels])})["class_logits"]
    np.testing.assert_allclose(double, np.concatenate([single, single]), atol=1e-4)


def test_injected_masks_are_what_layers_attend_by(exported, network):
    """Other masks change the queries of their layer, so the comparison does inject them."""
    pixels = noise(1, 64, 96)
    stages = plain_stages(network, pixels)
    run = runner(with_injected_masks(exported("standard", FIXED)))
    masks = {INJECTED + name: value for name, value in stages.items() if decides(name)}
    before = run({"pixels": pixels, **masks})["decoder.1.queries"]
    after = run({"pixels": pixels, **masks, "injected.decoder.1.mask_logits": -masks["injected.decoder.1.mask_logits"]})
    assert relative_error(after["decoder.1.queries"], before) > 1e-3
    assert np.array_equal(after["decoder.0.queries"], run({"pixels": pixels, **masks})["decoder.0.queries"])


@pytest.mark.parametrize("stage", ["backbone", "pixel_decoder", "mask_decoder.layers.2", "mask_decoder.class_head"])
def test_a_wrong_stage_is_refused_by_name(exported, network, stage):
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.get_submodule(stage).parameters():
            parameter.mul_(1.001).add_(0.001)
    named = {"mask_decoder.layers.2": r"decoder\.2\.queries", "mask_decoder.class_head": "class_logits"}
    with pytest.raises(RuntimeError, match=named.get(stage, stage)):
        verify(exported("standard", FIXED), other, FIXED)


def test_not_a_number_is_refused():
    errors = {"x": relative_error(np.array([np.nan], np.float32), np.array([1.0], np.float32))}
    with pytest.raises(RuntimeError, match="x inf"):
        require(Comparison(errors, 0, 1), 1e-4)


def test_half_storage_keeps_coordinates_and_norms(exported):
    full = exported("standard", FIXED)
    half = store_half(full)
    onnx.checker.check_model(half)
    assert metadata_of(half)["mask2edge.precision"] == "fp16"
    stored = {t.name.removesuffix(".half") for t in half.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    sizes = {t.name: int(np.prod(t.dims)) for t in full.graph.initializer}
    used = {name: node.op_type for node in full.graph.node for name in node.input}
    assert stored
    assert {used[name] for name in stored} <= {"Conv", "MatMul", "Gemm"}
    assert all(sizes[name] >= 1024 for name in stored)
    weights = sum(sizes[name] for name in stored)
    assert 1.8 * weights < full.ByteSize() - half.ByteSize() < 2.0 * weights
    again = store_full(half)
    assert {t.data_type for t in again.graph.initializer} == {t.data_type for t in full.graph.initializer}
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in full.graph.node]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.safetensors"], "no such file"),
        (["{checkpoint}", "--size", "500x500"], "multiples of 32"),
        (["{checkpoint}", "--size", "512"], "HEIGHTxWIDTH"),
        (["{checkpoint}", "--out", "model.pb"], "ending in .onnx"),
        (["{checkpoint}", "--min", "1x64x64"], "together with --dynamic"),
        (["{checkpoint}", "--dynamic", "--size", "64x64"], "--dynamic: expected --min"),
        (["{checkpoint}", "--dynamic", "--min", "64x64"], "BATCHxHEIGHTxWIDTH"),
        (["{checkpoint}", "--dynamic", "--min", "1x50x64"], "multiples of 32"),
        (["{checkpoint}", "--dynamic", "--min", "1x64x64", "--max", "1x64x64"], "that differ"),
        (["{checkpoint}", "--dynamic", "--min", "2x64x64", "--max", "1x96x96"], "min <= opt <= max"),
        (["{checkpoint}", "--batch", "-1"], "at least 1"),
    ],
)
def test_bad_input(checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(checkpoint) if word == "{checkpoint}" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_command_writes_to_artifacts(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(checkpoint), "--ops", "standard", "--fp16"]) == 0
    out = tmp_path / "artifacts" / "tiny.onnx"
    assert metadata_of(onnx.load(out))["mask2edge.precision"] == "fp16"
    captured = capsys.readouterr()
    assert "tiny.onnx" in captured.out
    assert "decoder layer 0" in captured.err
    assert [path.name for path in out.parent.iterdir()] == ["tiny.onnx"]


def test_nothing_is_written_when_verification_fails(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mask2edge.export.to_onnx.export_verified", _refuse)
    with pytest.raises(RuntimeError, match="beyond"):
        main([str(checkpoint), "--out", str(tmp_path / "x.onnx")])
    assert not list(tmp_path.iterdir())


def _refuse(*arguments, **options):
    raise RuntimeError("a stage is beyond the tolerance")
