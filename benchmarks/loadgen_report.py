"""A scenario's result as lines for people, and as a row of benchmarks/results/scenarios.csv.

print("\\n".join(table(result)))          # result: latency.py's JSON object with --scenario
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mask2edge.benchmarks import device_monitor, machine
from mask2edge.benchmarks.latency_report import origin, short_name

COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "engine", "sha256", "size", "scenario", "measures",
    "verdict", "result", "latency_p50_ms", "latency_p99_ms", "queries", "samples", "settings", "loadgen",
    *device_monitor.COLUMNS, "command", "calibration", "cores", "task",
)  # fmt: skip


def rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each engine, but for the command. `result` and `settings` are JSON, as their names are the scenario's."""
    reports = result.get("engines", [result])
    for report in reports:
        latency = report["latency_ms"] or {}
        yield origin(result) | {
            "engine": short_name(report),
            "sha256": report["sha256"],
            "size": report["size"],
            "scenario": report["scenario"],
            "measures": report["measures"],
            "verdict": report["verdict"],
            "result": json.dumps(report["result"]),
            "latency_p50_ms": latency.get("p50", ""),
            "latency_p99_ms": latency.get("p99", ""),
            "queries": report["queries"],
            "samples": report["samples"],
            "settings": json.dumps(report["settings"]),
            "loadgen": report["loadgen"],
            **device_monitor.row(report["device"], alone=len(reports) == 1),
            "calibration": report["calibration"] or "",
            "task": report["task"],
        }


def table(result: Mapping[str, Any]) -> Iterator[str]:
    for report in result.get("engines", [result]):
        yield "{engine} (batch {batch}, {size}, {precision}, {task}, sha256 {sha256:.16}…)".format(**report)
        yield "  {scenario} by MLPerf LoadGen {loadgen}, {measures}: {verdict}".format(**report)
        yield "  " + ", ".join(f"{name} {'–' if value is None else value}" for name, value in report["result"].items())
        if report["latency_ms"]:
            yield "  latency ms: " + ", ".join(f"{name} {value:.3f}" for name, value in report["latency_ms"].items())
        yield "  queries {queries}, samples {samples}, images {images}".format(**report)
        yield "  " + ", ".join(f"{name}: {'yes' if met else 'NO'}" for name, met in report["constraints"].items())
        yield from (f"  * {note}" for note in report["notes"])
        settings = {name: value for name, value in report["settings"].items() if not name.endswith("_seed")}
        yield "  settings: " + ", ".join(f"{name} {value:.12g}" for name, value in settings.items())
        for name, values in report["differs_from_mlperf"].items():
            yield f"  differs from MLPerf: {name} {values['here']}, there {values['mlperf']}"
        yield from (f"  {line}" for line in device_monitor.lines(report["device"]))
    yield machine.one_line(result["machine"])
