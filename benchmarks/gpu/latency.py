"""Step `latency`: the engines of each model in turns, step by step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mask2edge.benchmarks.gpu.engines import RANDOM, ROOT, SHIPPED, built_engines
from mask2edge.benchmarks.gpu.rows import RowFile

SECONDS = 20


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    for model in (SHIPPED, RANDOM):
        engines = [engine for engine in built_engines(out, model) if engine.precision != "cpu"]
        if not engines:
            rows.failed(model, "no TensorRT engine was built")
            continue
        command = ["benchmarks/latency.py", *(str(engine.folder) for engine in engines), "--json"]
        done = subprocess.run(
            [sys.executable, *command, "--seconds", str(SECONDS)], cwd=ROOT, capture_output=True, text=True
        )
        print(done.stderr, flush=True)
        if done.returncode:
            rows.failed(model, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
            continue
        result = json.loads(done.stdout)
        for engine, report in zip(engines, result.get("engines", [result]), strict=True):
            parts = ", ".join(
                f"{step} {report[f'{step}_ms']['p50']:.2f}" for step in ("preprocess", "network", "postprocess")
            )
            rows.measured(
                f"{model} {engine.precision}, {report['size']}",
                f"{report['total_ms']['p50']:.2f} ms p50 ({parts}), {report['throughput']:.1f} images/s",
            )
