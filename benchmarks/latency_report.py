"""What latency.py says of its engines: the report of each, their ratios, rows of latency.csv, lines for people.

report = engine_report(engine, times)        # {"engine", "sha256", "batch", "network_ms": {"p50", …}, …}
a_a([report, again])                         # the same engine twice: what the measurement can tell apart
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2edge.benchmarks import device_monitor, machine
from mask2edge.benchmarks.timed_engine import STEPS, TimedEngine
from mask2edge.benchmarks.timing import summarize

A_A_BOUND = (
    0.03  # the same engine twice: a ratio of medians farther from 1 says that the machine was not fit to measure
)
SHOWN = ("min", "p50", "mean", "p90", "p95", "p99", "max")
COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "peer", "engine", "size", "batch", "runs",
    "network_p50_ms", "peer_p50_ms", "total_p50_ms", "ratio", "sha256", "mode", "network_p99_ms", "total_p99_ms",
    "drift", *device_monitor.COLUMNS, "preprocess_p50_ms", "postprocess_p50_ms", "backend", "command",
    "calibration", "ratio_to_first", "cores", "task",
)  # fmt: skip


def description(engine: TimedEngine) -> dict[str, Any]:
    """Which engine: the file by its checksum, as accuracy.py gives it, so that figures of both are of one artifact."""
    spec = engine.segmenter.spec
    report: dict[str, Any] = {"engine": str(engine.path), "sha256": engine.sha256, "batch": spec.profile.opt[0]}
    report |= {"size": engine.size, "precision": spec.precision, "backend": spec.backend, "ops": spec.ops}
    return report | {"calibration": engine.calibration or None, "task": engine.task}


def engine_report(engine: TimedEngine, times: Sequence[dict[str, float]]) -> dict[str, Any]:
    report = description(engine) | {f"{step}_ms": summarize([time[step] for time in times]) for step in STEPS}
    throughput = round(1000 * report["batch"] / report["total_ms"]["mean"], 3)
    return report | {"throughput": throughput, "runs": len(times)}


def add_ratios_to_first(reports: Sequence[dict[str, Any]]) -> None:
    """Each later report gets "ratio_to_first": of the medians, below 1 is faster than the first engine."""
    for report in reports[1:]:
        report["ratio_to_first"] = _ratios(report, reports[0])


def a_a(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """For an engine that is there twice, by its checksum: the ratio of medians that is farthest from 1. None where all
    differ.
    """
    first: dict[str, Mapping[str, Any]] = {}
    worst: dict[str, Any] | None = None
    for report in reports:
        other = first.setdefault(report["sha256"], report)
        if other is report:
            continue
        ratios = _ratios(report, other)
        off = max(abs(ratio - 1) for ratio in ratios.values())
        if worst is None or off > worst["off"]:
            worst = {"engine": report["engine"], **ratios, "off": off}
    if worst is None:
        return None
    off = worst.pop("off")
    return worst | {"bound": A_A_BOUND, "within": off <= A_A_BOUND}


def _ratios(report: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    return {step: round(report[f"{step}_ms"]["p50"] / other[f"{step}_ms"]["p50"], 4) for step in ("network", "total")}


def origin(result: Mapping[str, Any]) -> dict[str, Any]:
    """Where and with what a result was measured: the first columns of a row."""
    described = result["machine"]
    return {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": described["machine"],
        "cpu": described["cpu"],
        "threads": result["threads"] or "default",
        "versions": " ".join(f"{name}={version}" for name, version in described["versions"].items()),
        "cores": described["cores"],
    }


def rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One line of benchmarks/results/latency.csv for each engine, but for the command."""
    peer = result.get("peer")
    reports = result.get("engines", [result])
    for report in reports:
        # What several engines in turns make the device do is the figure of none of them.
        device = report.get("device") or (result["device"] if len(reports) == 1 else None)
        yield origin(result) | {
            "peer": peer["name"] if peer else "",
            "engine": short_name(report),
            "size": report["size"],
            "batch": report["batch"],
            "runs": report["runs"],
            "network_p50_ms": report["network_ms"]["p50"],
            "peer_p50_ms": peer["network_ms"]["p50"] if peer else "",
            "total_p50_ms": report["total_ms"]["p50"],
            "ratio": report.get("ratio", ""),
            "sha256": report["sha256"],
            "mode": result["mode"],
            "network_p99_ms": report["network_ms"]["p99"],
            "total_p99_ms": report["total_ms"]["p99"],
            "drift": report.get("sustained", {}).get("ratio", ""),
            **device_monitor.row(device, alone=len(reports) == 1),
            "preprocess_p50_ms": report["preprocess_ms"]["p50"],
            "postprocess_p50_ms": report["postprocess_ms"]["p50"],
            "backend": report["backend"],
            "calibration": report["calibration"] or "",
            "task": report["task"],
            "ratio_to_first": report.get("ratio_to_first", {}).get("total", ""),  # of its run: the command names it
        }


def short_name(report: Mapping[str, Any]) -> str:
    return f"{Path(report['engine']).name} {report['precision']} {report['ops']}"


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield f"{'milliseconds':<14}" + "".join(f"{name:>10}" for name in SHOWN)
    for report in result.get("engines", [result]):
        yield "{engine} (batch {batch}, {size}, {precision}, {task}, {runs} runs)".format(**report)
        for step in STEPS:
            yield _line(step, report[f"{step}_ms"])
        yield f"  {report['throughput']:.2f} images/s; sha256 {report['sha256'][:16]}…"
        if "ratio" in report:
            yield f"  network: {report['ratio']:.3f} of {result['peer']['name']} (ratio of medians)"
        if "ratio_to_first" in report:
            yield "  of the first engine: network {network:.3f}, total {total:.3f}".format(**report["ratio_to_first"])
        if "sustained" in report:
            yield "  sustained: first tenth {first_ms:.2f}, last {last_ms:.2f}, ratio {ratio:.3f}".format(
                **report["sustained"]
            )
        if "device" in report and "engines" in result:
            yield from (f"  {line}" for line in device_monitor.lines(report["device"]))
    if "peer" in result:
        yield f"{result['peer']['name']} ({result['peer']['onnx']})"
        yield _line("network", result["peer"]["network_ms"])
    if found := result.get("a_a"):
        verdict = "within" if found["within"] else "NOT within"
        yield (
            f"A/A, {found['engine']} against itself: network {found['network']:.3f}, total {found['total']:.3f}: "
            f"{verdict} {found['bound']:.0%}"
        )
    if "device" in result:
        yield from device_monitor.lines(result["device"])
    yield machine.one_line(result["machine"])


def _line(step: str, summary: Mapping[str, float]) -> str:
    return f"  {step:<12}" + "".join(f"{summary[name]:>10.2f}" for name in SHOWN)
