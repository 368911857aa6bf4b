"""One line of benchmarks/results/accuracy.csv: what was measured, on which file, and how to measure it again.

    append_row(RESULTS, COLUMNS, accuracy_row(result, segmenter.spec, artifact, command))

`sha256` is of the artifact, as in latency.csv: accuracy and time of the same file have the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mask2edge.benchmarks import machine
from mask2edge.runtime.spec import EngineSpec, ModelSpec, Profile
from mask2edge.train.config_file import CONFIG_FOLDER, read_config
from mask2edge.train.presets import PRESETS

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.csv"
# Fractions; empty where they are not of the task.
METRICS = ("mIoU", "AP", "AP50", "boundary_AP", "PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")
COLUMNS = (
    "date", "commit", "machine", "cpu", "versions", "artifact", "backbone", "precision", "backend", "ops", "size",
    "sha256", "checkpoint_sha256", "bytes", "task", "data", "split", "images", "images_in_split", "detections",
    *METRICS, "command", "calibration",
)  # fmt: skip


def accuracy_row(result: dict[str, Any], spec: EngineSpec, artifact: Path, command: str) -> dict[str, Any]:
    """`result`: the JSON object of accuracy.py; `command`: as recorded_command gives it."""
    described = machine.describe()
    found = {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": described["machine"],
        "cpu": described["cpu"],
        "versions": " ".join(f"{name}={version}" for name, version in described["versions"].items()),
        "artifact": artifact.resolve().name,
        "backbone": backbone_of(spec.model),
        "precision": spec.precision,
        "backend": spec.backend,
        "ops": spec.ops,
        "size": size_of(spec.profile),
        "sha256": result["sha256"],
        "checkpoint_sha256": spec.checkpoint_sha256 or "",
        "bytes": result["bytes"],
        "task": result["task"],
        "data": Path(result["data"]).resolve().name,
        "split": result["split"],
        "images": result["images"],
        "images_in_split": result["images_in_split"],
        "detections": result.get("detections", ""),
        "command": command,
        "calibration": result["calibration"] or "",
    }
    figures = result["metrics"]
    return found | {name: f"{figures[name]:.6f}" if name in figures else "" for name in METRICS}


def backbone_of(model: ModelSpec) -> str:
    """Of the preset or the training configuration that the model is named after; "" where there is none: an artifact
    carries its labels, not its layers.
    """
    if model.name in PRESETS:
        return PRESETS[model.name].model.backbone
    if (CONFIG_FOLDER / f"{model.name}.toml").is_file():
        return str(read_config(model.name).get("model", {}).get("backbone", ""))
    return ""


def size_of(profile: Profile) -> str:
    """HxW; of an engine that takes several sizes, the smallest and the largest."""
    low, high = (f"{height}x{width}" for _, height, width in (profile.min, profile.max))
    return low if low == high else f"{low}-{high}"


def bytes_of(artifact: Path) -> int:
    """Of the file, or of all files of an engine."""
    return sum(file.stat().st_size for file in (artifact.iterdir() if artifact.is_dir() else [artifact]))
