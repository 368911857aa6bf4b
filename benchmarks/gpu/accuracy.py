"""Step `accuracy`: each engine of the shipped model on labelled images, against the same network on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mask2edge.benchmarks.gpu.engines import ROOT, SHIPPED, built_engines
from mask2edge.benchmarks.gpu.rows import NOT_RUN, RowFile

MOST_LOST = {"fp32": 0.001, "fp16": 0.002, "bf16": 0.005}  # of mIoU


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    if data is None:
        rows.add(f"{SHIPPED} mIoU", "no labelled images were named: make gpu-check DATA=DIR", NOT_RUN)
        return
    engines = built_engines(out, SHIPPED)
    if not engines:
        rows.failed(f"{SHIPPED} mIoU", "no engine was built")
    expected: float | None = None
    for engine in engines:
        what = f"{SHIPPED} {engine.precision} mIoU"
        command = ["benchmarks/accuracy.py", str(engine.folder), "--task", "semantic", "--data", str(data), "--json"]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        print(done.stderr, flush=True)
        if done.returncode:
            rows.failed(what, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
            continue
        found = json.loads(done.stdout)["metrics"]["mIoU"]
        rows.measured(what, f"{found:.4f}")
        if engine.precision == "cpu":
            expected = found
        elif expected is None:
            rows.failed(f"{what}, lost", "the CPU's figure, which it is compared with, is missing")
        else:
            rows.bounded(f"{what}, lost against the CPU", expected - found, MOST_LOST[engine.precision])
