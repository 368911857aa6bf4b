"""TensorRT's front end on our graphs, without a GPU: TensorRT-RTX parses and builds them, each in a process of its own.

    pytest -k proxy_build               # the shipped model, a dynamic one, and R50 and Swin-T under a short decoder
    pytest -k proxy_build -m slow       # R50, Swin-T and lite as they are, in every precision, fixed and dynamic

It is our own code that builds (export/plan_building.py), with TensorRT-RTX in the place of TensorRT: the same calls,
the same parser and the same optimiser, for GPUs of another kind. Plugins cannot be tried so, and nothing is executed.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from tiny_export import DYNAMIC, randomise

from mask2edge.export.half_storage import metadata_of
from mask2edge.export.memory_estimate import estimate_memory
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.precision import typed_graph
from mask2edge.runtime.spec import Profile
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.backbones.swin import SwinTransformer
from mask2edge.train.model.mask2former import Mask2Former, build_model
from mask2edge.train.presets import PRESETS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX, which builds without a GPU, is not installed: pip install tensorrt-rtx",
)

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import json, os, signal, sys
from pathlib import Path
import tensorrt_rtx
from mask2edge.export.build_progress import BuildProgress
from mask2edge.export.onnx_metadata import read_description
from mask2edge.export.plan_building import build_plan
from mask2edge.export.tensorrt_options import TensorrtOptions
from mask2edge.export.timing_cache import TimingCache
from mask2edge.runtime.command_line import InputError, say
from mask2edge.runtime.tensorrt_engine import process_logger

source, interrupted = Path(sys.argv[1]), len(sys.argv) > 2

def write(line):
    say(line)
    if interrupted:
        os.kill(os.getpid(), signal.SIGINT)

logger, errors = process_logger(tensorrt_rtx)
try:
    plan = build_plan(
        tensorrt_rtx, logger, errors, source.read_bytes(), read_description(source).profile,
        TensorrtOptions(workspace=1024, optimization_level=2), BuildProgress(write, seconds=0 if interrupted else 2),
        TimingCache(source.with_suffix(".timing-cache")),
    )
    print(json.dumps({"bytes": plan.nbytes}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
except KeyboardInterrupt:
    print(json.dumps({"stopped": True}))
"""
FIXED = Profile.fixed(128, 192)
BATCH = Profile((1, 128, 192), (2, 128, 192), (4, 128, 192))
SIZE = Profile((1, 64, 96), (1, 128, 192), (2, 192, 192))


def build(proto: onnx.ModelProto, folder: Path, *arguments: str) -> dict:
    """What the build in a process of its own says."""
    file = folder / "model.onnx"
    onnx.save(proto, file)
    command = [sys.executable, "-c", BUILD, str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=1800)
    file.unlink()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_builds(proto: onnx.ModelProto, precision: str, folder: Path) -> int:
    """Bytes of the plan, which are about what the weights take in this precision."""
    typed = typed_graph(proto, precision)
    found = build(typed, folder)
    assert "error" not in found, found["error"]
    profile = Description.from_metadata(metadata_of(typed), "the graph").profile
    weights = sum(estimate_memory(typed, profile).weights.values())
    # Beside weights a plan holds code: megabytes of it, for several kinds of GPUs.
    assert 0.9 * weights < found["bytes"] < 2 * weights + 40e6
    return found["bytes"]


@pytest.fixture(scope="module")
def graph():
    """graph(preset, profile, short): the exported network with random weights, standard ops; one is kept at a time."""
    from mask2edge.export.to_onnx import export_model

    kept: dict[tuple, onnx.ModelProto] = {}

    def make(name: str, profile: Profile, short: bool = False) -> onnx.ModelProto:
        if (name, profile, short) not in kept:
            preset = PRESETS[name]
            torch.manual_seed(0)
            kept.clear()
            model = randomise(short_model(preset.model) if short else build_model(preset.model))
            kept[name, profile, short] = export_model(model, preset.spec(), profile, "standard")
        return kept[name, profile, short]

    return make


def short_model(config: ModelConfig) -> Mask2Former:
    """One encoder layer, a decoder layer for each level, and of Swin-T's blocks one with and four without a shift."""
    model = build_model(dataclasses.replace(config, encoder_layers=1, decoder_layers=3))
    if config.backbone == "swin-tiny":
        model.backbone = SwinTransformer(96, (2, 1, 1, 1), (3, 6, 12, 24), window=7)
    return model


def test_the_shipped_model(tmp_path):
    proto = onnx.load(ROOT / "models" / "street-lite-standard.onnx")
    sizes = {precision: check_builds(proto, precision, tmp_path) for precision in ("fp32", "fp16", "bf16")}
    assert sizes["fp16"] < 0.9 * sizes["fp32"]
    assert sizes["bf16"] < 0.9 * sizes["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_dynamic_batch_and_size(exported, tmp_path, precision):
    check_builds(exported("standard", DYNAMIC), precision, tmp_path)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("coco-panoptic-r50", "fp32"), ("coco-panoptic-r50", "fp16"), ("coco-panoptic-swin-t", "fp16")],
)
def test_each_backbone_under_a_short_decoder(graph, tmp_path, name, precision):
    check_builds(graph(name, FIXED, short=True), precision, tmp_path)


@pytest.mark.parametrize("profile", [FIXED, SIZE], ids=["fixed", "dynamic-size"])
def test_guided_queries(tmp_path, profile):
    from mask2edge.export.to_onnx import export_model

    base = PRESETS["coco-panoptic-lite0"]
    config = dataclasses.replace(
        base.model, query_features="guided", decoder_features="stride-8", place_codes=True, encoder_layers=1,
        decoder_layers=2,
    )  # fmt: skip
    torch.manual_seed(0)
    proto = export_model(randomise(build_model(config)), base.spec(), profile, "standard")
    check_builds(proto, "fp16", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco-panoptic-r50", "coco-panoptic-swin-t", "coco-panoptic-lite0"])
@pytest.mark.parametrize(
    ("profile", "precisions"),
    [(FIXED, ("fp32", "fp16", "bf16")), (BATCH, ("fp32", "fp16")), (SIZE, ("fp32", "fp16"))],
    ids=["fixed", "dynamic-batch", "dynamic-size"],
)
def test_full_networks(graph, tmp_path, name, profile, precisions):
    for precision in precisions:
        check_builds(graph(name, profile), precision, tmp_path)


def test_a_missing_cast_is_one_line_that_names_the_node(exported, tmp_path):
    """What stands for every error of the graph that TensorRT finds: the parser's message arrives."""
    typed = typed_graph(exported("standard", DYNAMIC), "fp16")
    weight = next(tensor for tensor in typed.graph.initializer if len(tensor.dims) == 4)
    node = next(node for node in typed.graph.node if weight.name in node.input)
    full = onnx.numpy_helper.to_array(weight).astype("float32")
    weight.CopyFrom(onnx.numpy_helper.from_array(full, weight.name))
    found = build(typed, tmp_path)
    assert "TensorRT's parser stopped at node" in found["error"]
    assert f"{node.name or node.output[0]} (Conv)" in found["error"]
    assert "\n" not in found["error"]


def test_control_c_stops_a_real_build(exported, tmp_path):
    assert build(exported("standard", DYNAMIC), tmp_path, "interrupt") == {"stopped": True}
