"""Step `engines`: what a user types, for the shipped model and a full-size R50 with random weights, in each precision.

Engines of later steps are found with `built_engines(out)`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mask2edge.benchmarks.gpu.rows import NOT_RUN, PASSED, RowFile

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("fp32", "fp16", "bf16")
SHIPPED, RANDOM = "street-lite", "r50"
RANDOM_PRESET, RANDOM_SIZE = "coco-panoptic-r50", "512x512"
FIRST_BFLOAT16 = 80  # compute capability


@dataclass(frozen=True)
class BuiltEngine:
    model: str
    precision: str  # "cpu": fp32 in ONNX Runtime, what the others are compared with
    folder: Path


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    from mask2edge.runtime.device_memory import open_device

    with open_device() as device:
        sm = device.properties.sm
    for model in (SHIPPED, RANDOM):
        source = _source(model, rows, out)
        if source is None:
            continue
        for precision in ("cpu", *PRECISIONS):
            what = f"{model} {precision}"
            if precision == "bf16" and sm < FIRST_BFLOAT16:
                rows.add(what, f"compute capability {sm} has no bfloat16", NOT_RUN)
                continue
            _build(rows, what, source, BuiltEngine(model, precision, engine_folder(out, model, precision)))


def engine_folder(out: Path, model: str, precision: str) -> Path:
    return out / "engines" / f"{model}-{precision}.engine"


def built_engines(out: Path, model: str) -> list[BuiltEngine]:
    """Those of a model that were built; the CPU's first."""
    found = [BuiltEngine(model, name, engine_folder(out, model, name)) for name in ("cpu", *PRECISIONS)]
    return [engine for engine in found if (engine.folder / "spec.json").is_file()]


def _source(model: str, rows: RowFile, out: Path) -> Path | None:
    if model == SHIPPED:
        return ROOT / "models" / f"{SHIPPED}.onnx"
    if importlib.util.find_spec("torch") is None:
        rows.add(model, "torch, which makes its random weights, is not installed", NOT_RUN)
        return None
    path = out / f"{RANDOM}.safetensors"
    if not path.is_file():
        write_random_checkpoint(path, RANDOM_PRESET)
    return path


def write_random_checkpoint(path: Path, preset_name: str) -> None:
    """A preset's network as its training starts, from a fixed seed; activations stay within what fp16 can hold."""
    import torch

    from mask2edge.train.checkpoint import save_checkpoint
    from mask2edge.train.model.mask2former import build_model
    from mask2edge.train.presets import PRESETS

    preset = PRESETS[preset_name]
    torch.manual_seed(0)
    weights = build_model(preset.model).state_dict()
    for name, tensor in weights.items():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            tensor.normal_(0, 0.02)  # they start at 0, where every sample would be alike
    save_checkpoint(path, weights, preset.model, preset.spec())


def _build(rows: RowFile, what: str, source: Path, engine: BuiltEngine) -> None:
    on_cpu = engine.precision == "cpu"
    arguments = [str(source), "--out", str(engine.folder), "--backend", "onnxruntime" if on_cpu else "tensorrt"]
    arguments.append("--fp32" if on_cpu else f"--{engine.precision}")
    if source.suffix != ".onnx":
        arguments += ["--size", RANDOM_SIZE]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "export/build_engine.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        rows.failed(what, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
        return
    size = sum(file.stat().st_size for file in engine.folder.iterdir()) / 1e6
    rows.add(what, f"{size:.1f} MB, built in {time.perf_counter() - started:.0f} s", PASSED)
