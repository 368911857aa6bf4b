"""Networks with the paper's ablations as ONNX: every switch, in standard and in custom operators."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_export import CLASSES, DYNAMIC, FIXED, QUERIES, needs_library, randomise, tiny_network, tiny_spec

from mask2edge.export.ablation_graph import InferencePyramid, PlainMaskDecoder
from mask2edge.export.inference_graph import InferenceGraph, InferenceMaskDecoder, InferencePixelDecoder
from mask2edge.export.stage_comparison import noise
from mask2edge.export.standard_ops import StandardOps
from mask2edge.export.to_onnx import export_model, main
from mask2edge.export.verification import verify
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.mask2former import build_model

CONFIG = ModelConfig(
    "efficientnet-lite0", CLASSES, QUERIES, hidden_dim=64, num_heads=4,
    encoder_layers=1, encoder_ffn=64, decoder_layers=4, decoder_ffn=64,
)  # fmt: skip
PLAIN = [  # the mask decoder as it was trained
    {"cross_attention": "plain"},
    {"cross_attention": "mask-pooling"},
    {"decoder_features": "concatenated"},
    {"query_features": "zero"},
    {"attention_order": "self-first"},
    {"query_features": "zero", "cross_attention": "mask-pooling", "attention_order": "self-first"},
    {"query_features": "guided", "decoder_features": "concatenated"},
    {"pixel_decoder": "fpn", "decoder_features": "concatenated"},
]
REWRITTEN = [
    {"decoder_features": "stride-32"},
    {"decoder_features": "stride-16"},
    {"decoder_features": "stride-8"},
    {"place_codes": True},
    {"query_features": "unsupervised"},
    {"query_features": "guided"},
    {"decoder_dropout": 0.1},
    {"pixel_decoder": "fpn"},
    {"pixel_decoder": "bifpn"},
]
# An export takes seconds: these have every part that the others have, which are exported in the slow tests.
TELLING = [
    {"query_features": "guided", "decoder_features": "concatenated"},
    {"decoder_features": "stride-8", "place_codes": True},
    {"query_features": "guided"},
    {"query_features": "zero", "cross_attention": "mask-pooling", "attention_order": "self-first"},
    {"pixel_decoder": "bifpn"},
]


def named(switches):
    return "-".join(map(str, switches.values()))


def ablated(switches):
    torch.manual_seed(0)
    return randomise(build_model(dataclasses.replace(CONFIG, **switches)))


@pytest.mark.parametrize("switches", [*PLAIN, *REWRITTEN], ids=named)
def test_every_switch_equals_the_plain_model_in_float64(switches):
    model = ablated(switches).double()
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    graph = InferenceGraph(model, StandardOps(), (64, 96))
    assert isinstance(graph.mask_decoder, PlainMaskDecoder if switches in PLAIN else InferenceMaskDecoder)
    fpn = "pixel_decoder" in switches
    assert isinstance(graph.pixel_decoder, InferencePyramid if fpn else InferencePixelDecoder)
    with torch.no_grad():
        expected = model(pixels)
        class_logits, mask_logits = graph(pixels)
    assert (class_logits - expected["class_logits"]).abs().max() < 1e-10
    assert (mask_logits - expected["mask_logits"]).abs().max() < 1e-10


def test_mask2former_itself_is_rewritten():
    graph = InferenceGraph(tiny_network(), StandardOps(), (64, 96))
    assert isinstance(graph.mask_decoder, InferenceMaskDecoder)
    assert isinstance(graph.pixel_decoder, InferencePixelDecoder)


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(switches, marks=() if switches in TELLING else pytest.mark.slow)
        for switches in (*PLAIN, *REWRITTEN)
    ],
    ids=named,
)
def test_every_switch_runs_in_onnxruntime_on_standard_ops(switches):
    model = ablated(switches)
    proto = export_model(model, tiny_spec(), FIXED, "standard")
    verify(proto, model, FIXED)  # every stage, with the same masks in both
    pixels = noise(1, 64, 96)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels))
    for name, found in zip(("class_logits", "mask_logits"), session.run(None, {"pixels": pixels}), strict=True):
        np.testing.assert_allclose(found, expected[name].numpy(), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["standard", pytest.param("custom", marks=needs_library)])
@pytest.mark.parametrize("switches", [*PLAIN, *REWRITTEN], ids=named)
def test_every_switch_is_dynamic(switches, ops):
    model = ablated(switches)
    verify(export_model(model, tiny_spec(), DYNAMIC, ops), model, DYNAMIC)


def test_a_checkpoint_with_switches_is_exported_by_the_command(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, decoder_layers=1, pixel_decoder="fpn", query_features="zero")
    torch.manual_seed(0)
    path = tmp_path / "ablated.safetensors"
    save_checkpoint(path, randomise(build_model(config)).state_dict(), config, tiny_spec())
    assert main([str(path), "--ops", "standard", "--out", str(tmp_path / "ablated.onnx")]) == 0
    assert "decoder layer 0" in capsys.readouterr().err
