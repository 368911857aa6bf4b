"""Figures of the shipped model that no clock is in, so that CI may hold them against those of an earlier commit.

    python benchmarks/gate_figures.py --out artifacts/gate/figures.csv
    python benchmarks/gate.py benchmarks/results/gate-base.csv artifacts/gate/figures.csv

For an engine of each precision that ONNX Runtime has, built anew from the checkpoint: its nodes and bytes, the
multiply-adds of the exported graph, and the part of a photograph's pixels whose label is that of the checkpoint on
PyTorch. Where a change is meant to move a figure, `--out benchmarks/results/gate-base.csv` makes it the new base.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.accuracy_rows import bytes_of, size_of
from mask2edge.benchmarks.artifact import open_artifact
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.multiply_adds import multiply_adds
from mask2edge.runtime.command_line import InputError, command, say, sha256_of, whole_file
from mask2edge.runtime.images import read_image

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "models" / "street-lite.safetensors"
FOLDER = Path("artifacts/gate")
COLUMNS = (
    "date", "commit", "machine", "cpu", "versions", "model", "checkpoint_sha256", "image", "precision", "backend",
    "ops", "size", "nodes", "multiply_adds", "bytes", "label_agreement", "command",
)  # fmt: skip


def measure(checkpoint: Path, image: Path, folder: Path) -> list[dict[str, Any]]:
    """A row for each precision; the engines are left in `folder`. Raises InputError."""
    from mask2edge.export.backends import PRECISIONS

    photograph = read_image(image)  # [H, W, 3] BGR
    with open_artifact(checkpoint) as segmenter:
        task = segmenter.check_task(None)
        expected = segmenter(photograph, task=task).label_map  # int32 [H, W]
    source = folder / f"{checkpoint.stem}.onnx"
    products = _export(checkpoint, source)
    rows = []
    for precision in PRECISIONS["onnxruntime"]:
        engine = folder / f"{checkpoint.stem}-{precision}.engine"
        calibration = ("--calibration", str(image.parent)) if precision == "int8" else ()
        _build(str(source), f"--{precision}", "--backend", "onnxruntime", *calibration, "--out", str(engine))
        with open_artifact(engine) as segmenter:
            found = segmenter(photograph, task=task).label_map  # int32 [H, W]
            spec = segmenter.spec
        rows.append({
            "model": checkpoint.name,
            "checkpoint_sha256": sha256_of(checkpoint),
            "image": image.name,
            "precision": precision,
            "backend": spec.backend,
            "ops": spec.ops,
            "size": size_of(spec.profile),
            "nodes": len(onnx.load(engine / "model.onnx").graph.node),
            "multiply_adds": products,
            "bytes": bytes_of(engine),
            "label_agreement": round(float(np.mean(found == expected)), 6),
        })  # fmt: skip
    return rows


def _export(checkpoint: Path, out: Path) -> int:
    """Writes the graph that all engines are built from, and returns its multiply-adds. What export_verified would say
    of it, the labels say of its engines.
    """
    try:
        from mask2edge.export.to_onnx import export_model, resolve_ops
        from mask2edge.runtime.spec import Profile
        from mask2edge.train.checkpoint import load_model
    except ImportError as error:
        raise InputError(f"exporting cannot start ({error}); pip install 'mask2edge[export]'") from error
    model, read = load_model(checkpoint)
    profile = Profile.fixed(*read.spec.size)
    proto = export_model(model, read.spec, profile, resolve_ops("auto"), sha256_of(checkpoint))
    with whole_file(out) as temporary:
        onnx.save(proto, temporary)
    return multiply_adds(proto, (1, 3, *read.spec.size))


def _build(*arguments: str) -> None:
    """build_engine.py in this process, which has paid for its imports. Raises InputError where it fails."""
    from mask2edge.export import build_engine

    with contextlib.redirect_stdout(sys.stderr):
        code = build_engine.main(arguments)
    if code:
        raise InputError(f"`build_engine.py {' '.join(arguments)}` ended with exit code {code}; it said why")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    described = machine.describe()
    about = {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": described["machine"],
        "cpu": described["cpu"],
        "versions": " ".join(f"{name}={version}" for name, version in described["versions"].items()),
        "command": "python benchmarks/gate_figures.py",
    }
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(about | row for row in rows)


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Counts and agreements of the shipped model's engines, for gate.py.",
        epilog="example: python benchmarks/gate_figures.py --out artifacts/gate/figures.csv",
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: the shipped street-lite")
    parser.add_argument("--image", type=Path, help="default: scikit-learn's photograph; its folder calibrates int8")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the engines (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="default: figures.csv in that folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    if not arguments.checkpoint.is_file():
        raise InputError(f"{arguments.checkpoint}: no such file; name a checkpoint with --checkpoint")
    image = arguments.image or sample_photograph()
    rows = measure(arguments.checkpoint, image, arguments.folder)
    out = arguments.out or arguments.folder / "figures.csv"
    write(out, rows)
    say(f"wrote {out}")
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        for row in rows:
            print("{model} {precision}: {nodes} nodes, {multiply_adds} multiply-adds, {bytes} bytes, ".format(**row)
                  + "{label_agreement:.4%} of the labels".format(**row))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
