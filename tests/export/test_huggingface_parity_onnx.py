"""A full-size Hugging Face model, imported, as our ONNX graphs and engine: every stage in float32.

    pytest -k huggingface_parity

The reference is the float64 model, whose equality with Hugging Face's is tests/train/test_huggingface_parity.py's; the
backbone's and the pixel decoder's maps are compared with theirs here once more. Its attention masks are injected into
every decoder layer; without injection, flipped mask pixels are counted and bounded.
"""

import copy

import numpy as np
import onnx
import pytest
import torch
from tiny_export import needs_library

pytest.importorskip("transformers", reason="the oracle is Hugging Face's implementation: pip install transformers")

from mask2edge.export.onnx_metadata import read_description
from mask2edge.export.onnxruntime_builder import build_onnxruntime_engine
from mask2edge.export.stage_comparison import (
    compare,
    noise,
    report,
    runner,
    with_injected_masks,
    with_stage_outputs,
)
from mask2edge.export.to_onnx import export_model
from mask2edge.export.verification import plain_stages
from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.session_onnxruntime import OnnxRuntimeSession
from mask2edge.runtime.spec import Profile
from mask2edge.train.checkpoint import load_model

SIZE = (96, 128)
TOLERANCE = 1e-4
FLIPPED = 2e-3  # of all mask pixels, end to end: random weights leave many logits near zero


@pytest.fixture(scope="module")
def imported(huggingface_import):
    """Our float32 model, its description, the pixels and the float64 model's stages."""
    ours, checkpoint = load_model(huggingface_import.checkpoint)
    pixels = noise(1, *SIZE)
    return ours, checkpoint.spec, pixels, plain_stages(copy.deepcopy(ours).double(), pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parity")


@pytest.mark.parametrize("ops", ["standard", pytest.param("custom", marks=needs_library)])
def test_huggingface_parity_of_onnx_and_engine(huggingface_import, imported, folder, ops):
    ours, spec, pixels, expected = imported
    proto = export_model(ours, spec, Profile.fixed(*SIZE), ops, sha256_of(huggingface_import.checkpoint))
    path = folder / f"{ops}.onnx"
    onnx.save(proto, path)
    free = runner(with_stage_outputs(proto))
    comparison = compare(expected, runner(with_injected_masks(proto)), free, pixels)
    report(comparison)
    assert len(comparison.errors) == 4 + 4 + 9 * 2 + 2
    assert comparison.largest < TOLERANCE, comparison.errors
    assert comparison.flips <= FLIPPED * comparison.mask_pixels

    engine = folder / f"{ops}.engine"
    engine_spec = build_onnxruntime_engine(path, read_description(path), engine)
    inside = onnx.load(engine / "model.onnx")
    assert inside == proto  # so the stages above are the engine's, too
    found = OnnxRuntimeSession(engine, engine_spec, 1).run(pixels)
    without_masks = free({"pixels": pixels})
    for name, values in found.items():
        np.testing.assert_allclose(values, without_masks[name], atol=1e-3)


def test_huggingface_parity_of_the_named_stages(huggingface_import, imported):
    """The float64 stages that graphs are compared with are Hugging Face's own."""
    *_, pixels, expected = imported
    theirs = copy.deepcopy(huggingface_import.model).double()
    with torch.no_grad():
        level = theirs.model.pixel_level_module(torch.from_numpy(pixels).double(), output_hidden_states=True)
        output = theirs(torch.from_numpy(pixels).double())
    for i, features in enumerate(level.encoder_hidden_states):
        np.testing.assert_allclose(expected[f"backbone.res{i + 2}"], features, atol=1e-8)
    for stride, features in zip((32, 16, 8), level.decoder_hidden_states, strict=True):
        tokens = features.flatten(2).transpose(1, 2)
        np.testing.assert_allclose(expected[f"pixel_decoder.level{stride}"], tokens, atol=1e-8)
    np.testing.assert_allclose(expected["class_logits"], output.class_queries_logits, atol=1e-8)
    np.testing.assert_allclose(expected["mask_logits"], output.masks_queries_logits, atol=1e-8)
