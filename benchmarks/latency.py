"""How long an engine takes: the network alone and end to end, reported apart, as percentiles.

    python benchmarks/latency.py artifacts/street-lite-fp16.engine --json
    python benchmarks/latency.py X.engine X.engine                               # A/A: is this machine fit to measure?
    python benchmarks/latency.py X.engine --sustained 600                        # does it throttle?
    python benchmarks/latency.py X.engine --scenario SingleStream --seconds 60   # by MLPerf LoadGen
    python benchmarks/latency.py --peer onnxruntime-stock --backbone r50 --size 512x512 --threads 2

Several engines take turns run by run; the same one may be named twice. --peer adds ONNX Runtime on the stock Hugging
Face export of the same architecture and weights, and the ratio of the medians of the network (below 1: ours is faster);
both sides are made where absent, and have to agree on the same input before they are timed.

--json prints, for one engine, {"engine", "sha256", "batch", "network_ms": {"p50", "p90", "p99", "mean", …},
"preprocess_ms", "postprocess_ms", "total_ms", "throughput", "device", …}, where throughput is images per second; for
several engines {"engines": [such objects], …}. With --peer, each engine has a "ratio", and the outer object a "peer".
docs/latency.md has the rules.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks import latency_report, loadgen_report, loadgen_scenarios, machine
from mask2edge.benchmarks.device_monitor import DeviceMonitor
from mask2edge.benchmarks.loadgen_scenarios import Scenario, run_scenario, scenario_of
from mask2edge.benchmarks.peers import onnxruntime_stock
from mask2edge.benchmarks.results_table import append_rows, recorded_command, require_appendable
from mask2edge.benchmarks.sustained import course, sustain
from mask2edge.benchmarks.timed_engine import TimedEngine, open_engines
from mask2edge.benchmarks.timing import Run, interleave, summarize, warm_up
from mask2edge.runtime.command_line import (
    InputError,
    command,
    natural_number,
    parse_size,
    positive_float,
    positive_number,
    say,
)
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import TASKS

RESULTS = Path(__file__).resolve().parent / "results"
# The same weights on the same input: fp32 rounding alone would be 1e-5, but where it flips an attended pixel, later
# layers differ by more (OPS.md). Half-precision storage adds its own. Foreign weights differ by 1 and more.
SAME_WEIGHTS = 0.05


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON object of the module's docstring. Raises InputError."""
    scenario = scenario_of(arguments)
    _check_modes(arguments)
    size = parse_size(arguments.size)
    images = [read_image(path) for path in arguments.image]
    stock = onnxruntime_stock.prepare(arguments.backbone, size) if arguments.peer else None
    paths = list(arguments.engine) or ([stock.engine] if stock else [])
    if not paths:
        raise InputError("expected an engine, or --peer, which makes its own; got neither")
    engines = open_engines(paths, images, arguments.task, arguments.threads)
    if scenario:
        reports = in_scenario(engines, scenario, arguments)
        outer: dict[str, Any] = {"mode": scenario.name}
    elif arguments.sustained:
        reports = without_pause(engines, arguments)
        outer = {"mode": f"sustained {arguments.sustained:g} s"}
    else:
        reports, outer = in_turns(engines, stock, size, arguments)
    result = reports[0] if len(reports) == 1 else {"engines": reports}
    return result | outer | {"threads": arguments.threads, "machine": machine.describe()}


def in_turns(
    engines: Sequence[TimedEngine],
    stock: onnxruntime_stock.StockPeer | None,
    size: tuple[int, int],
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The engines' reports, and what is of all of them: the peer, the A/A, the device."""
    runs: dict[str, Run] = {engine.name: engine.run for engine in engines}
    agreement = {}
    if stock:
        session = onnxruntime_stock.StockSession(stock.onnx, arguments.threads)
        for engine in engines:
            _check_size(engine, size)
            agreement[engine.name] = check_same_weights(engine, session)
        pixels, _ = engines[0].segmenter.prepare(engines[0].first_batch())
        runs[onnxruntime_stock.NAME] = lambda: _timed_peer(session, pixels)
    say(f"timing {len(runs)} in turns: {', '.join(runs)}")
    for run in runs.values():
        warm_up(run, arguments.warmup, arguments.warmup_ms)
    seconds = None if arguments.runs else arguments.seconds
    with _monitor(arguments) as monitor:
        times = interleave(
            runs, arguments.runs, seconds, warmup=0, least=arguments.iterations, pause=arguments.cool or 0.0
        )
    reports = [latency_report.engine_report(engine, times[engine.name]) for engine in engines]
    latency_report.add_ratios_to_first(reports)
    outer = {"mode": f"cool {arguments.cool:g} s" if arguments.cool else "in turns", "rules": _rules(arguments)}
    outer["device"] = monitor.report() if monitor else None
    if twice := latency_report.a_a(reports):
        outer["a_a"] = twice
    if stock:
        network = summarize([time["network"] for time in times[onnxruntime_stock.NAME]])
        for engine, report in zip(engines, reports, strict=True):
            report["ratio"] = round(report["network_ms"]["p50"] / network["p50"], 4)
            report["relative_difference"] = {name: float(f"{e:.3g}") for name, e in agreement[engine.name].items()}
        outer["peer"] = {"name": arguments.peer, "onnx": str(stock.onnx), "network_ms": network}
    return reports, outer


def without_pause(engines: Sequence[TimedEngine], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One engine after the other, each for as long as --sustained says, with its own course and device."""
    reports = []
    for engine in engines:
        say(f"{engine.name}: {arguments.sustained:g} s without a pause")
        warm_up(engine.run, arguments.warmup, arguments.warmup_ms)
        with _monitor(arguments) as monitor:
            times = sustain(engine.run, arguments.sustained, arguments.iterations)
        report = latency_report.engine_report(engine, times) | {"rules": _rules(arguments)}
        report["sustained"] = {"seconds": arguments.sustained} | course([one["total"] for one in times])
        reports.append(report | {"device": monitor.report() if monitor else None})
    return reports


def in_scenario(
    engines: Sequence[TimedEngine], scenario: Scenario, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One engine after the other: LoadGen decides when each has to answer."""
    warmup = (arguments.warmup, arguments.warmup_ms)
    return [
        latency_report.description(engine) | run_scenario(engine, scenario, warmup, arguments.monitor)
        for engine in engines
    ]


def check_same_weights(engine: TimedEngine, peer: onnxruntime_stock.StockSession) -> dict[str, float]:
    """Relative L2 differences of both outputs on the same input. Raises InputError where the networks differ."""
    pixels, _ = engine.segmenter.prepare(engine.first_batch())
    ours, theirs = engine.segmenter.session.run(pixels), peer.run(pixels)
    errors = {}
    for name, value in ours.items():
        same_shape = value.shape == theirs[name].shape
        errors[name] = onnxruntime_stock.relative_error(value, theirs[name]) if same_shape else float("inf")
    if max(errors.values()) > SAME_WEIGHTS:
        found = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise InputError(
            f"{engine.name}: expected the stock export's outputs within {SAME_WEIGHTS} (relative), got {found}; "
            "compare engines built from the peer's own ours.safetensors, or name no engine"
        )
    return errors


def _timed_peer(session: onnxruntime_stock.StockSession, pixels: np.ndarray) -> dict[str, float]:
    start = time.perf_counter()
    session.run(pixels)
    return {"network": 1000 * (time.perf_counter() - start)}


def _check_size(engine: TimedEngine, size: tuple[int, int]) -> None:
    opt = engine.segmenter.spec.profile.opt
    if opt != (1, *size):
        got = "x".join(map(str, opt))
        raise InputError(
            f"{engine.name}: expected batch and size 1x{size[0]}x{size[1]} as the peer's, got {got}; see --size"
        )


def _check_modes(arguments: argparse.Namespace) -> None:
    """Raises InputError for modes that exclude each other."""
    for mode, others in (("scenario", ("peer", "runs", "cool", "sustained")), ("sustained", ("peer", "cool"))):
        if getattr(arguments, mode):
            for other in others:
                if getattr(arguments, other):
                    raise InputError(f"--{mode}: expected no --{other} with it, got both; choose one")


def _monitor(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[DeviceMonitor | None]:
    return DeviceMonitor(arguments.monitor) if arguments.monitor else contextlib.nullcontext()


def _rules(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decided the number of runs."""
    names = ("warmup", "warmup_ms", "runs", "seconds", "iterations", "cool", "sustained")
    rules = {name: getattr(arguments, name) for name in names}
    if arguments.runs or arguments.sustained:
        rules["seconds"] = None
    return rules | {"percentiles": "trtexec"}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Times engines, interleaved, and a peer beside them; or drives them by MLPerf LoadGen.",
        epilog="example: python benchmarks/latency.py artifacts/street-lite-fp16.engine --image street.jpg --json",
    )
    parser.add_argument("engine", nargs="*", type=Path, metavar="ENGINE", help="the same one twice is an A/A test")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        help="may be repeated; batches take them in turn; default: blurred noise of the engine's size",
    )
    parser.add_argument("--task", choices=TASKS, help="the post-processing; default: the engine's own")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--runs", type=positive_number, metavar="N", help="timed runs of each contender")
    amount.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="S",
        help="of timed runs in all, at least (default: %(default)s)",
    )
    amount.add_argument(
        "--sustained",
        type=positive_float,
        metavar="S",
        help="of runs of each engine without a pause: does it throttle?",
    )
    parser.add_argument(
        "--iterations", type=positive_number, default=10, metavar="N", help="of each, at least (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=natural_number, default=3, metavar="N", help="runs before, not counted (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup-ms",
        type=natural_number,
        default=200,
        metavar="MS",
        help="of warm-up, at least (default: %(default)s)",
    )
    parser.add_argument(
        "--cool", type=positive_float, metavar="S", help="sleep so long before each run, so that the device stays cool"
    )
    parser.add_argument(
        "--monitor", type=_seconds, default=0.5, metavar="S",
        help="read CPU, memory, power, clocks and temperature so often; 0: never (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--threads", type=positive_number, metavar="N", help="default: the backend's own choice")
    parser.add_argument("--peer", choices=(onnxruntime_stock.NAME,))
    parser.add_argument(
        "--backbone", choices=onnxruntime_stock.BACKBONES, default="r50", help="the peer's (default: r50)"
    )
    parser.add_argument("--size", default="512x512", metavar="HxW", help="the peer's (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/latency.csv or scenarios.csv")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    loadgen_scenarios.add_arguments(parser)
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    return 0.0 if text == "0" else positive_float(text)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    written = loadgen_report if arguments.scenario else latency_report
    path = RESULTS / ("scenarios.csv" if arguments.scenario else "latency.csv")
    if arguments.save:
        require_appendable(path, written.COLUMNS)
    result = measure(arguments)
    if arguments.save:
        typed = recorded_command("benchmarks/latency.py", sys.argv[1:] if argv is None else argv)
        append_rows(path, written.COLUMNS, [row | {"command": typed} for row in written.rows(result)])
        say(f"appended to {path}")
    print(json.dumps(result) if arguments.json else "\n".join(written.table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
