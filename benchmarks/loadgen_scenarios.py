"""MLPerf's four scenarios, driven by the real LoadGen: how an engine does under each kind of load.

    python benchmarks/latency.py X.engine --scenario SingleStream --seconds 60
    python benchmarks/latency.py X.engine --scenario Server --target-qps 5 --target-latency-ms 300

SingleStream: one image after the other, the 90th percentile of latency. MultiStream: several images at a time, the 99th
percentile of a query. Server: images that arrive at random, --target-qps on average, of which 99 % have to be answered
within --target-latency-ms. Offline: all images at once, images per second.

The settings are those that the package has for any model (mlperf.conf), but for the shorter time: 600 s there. What
differs is in the report. This is no MLPerf submission: the model is none of its benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask2edge.benchmarks.device_monitor import DeviceMonitor
from mask2edge.benchmarks.loadgen_log import LoadGenLog
from mask2edge.benchmarks.loadgen_sut import SystemUnderTest, Work, end_to_end, network_alone
from mask2edge.benchmarks.timed_engine import TimedEngine
from mask2edge.benchmarks.timing import timed
from mask2edge.runtime.command_line import InputError, positive_float, positive_number, say, whole_folder

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
# Options that one scenario alone has, or two: by their names in argparse.
ONLY_FOR = {
    "target_qps": ("Server", "Offline"),
    "target_latency_ms": ("Server",),
    "samples_per_query": ("MultiStream",),
}
OPTIONS = (*ONLY_FOR, "min_queries", "network_only", "logs")
TARGET_LATENCY_MS = 100.0  # LoadGen's own default
ANY_MODEL = "mask2edge"  # a name that mlperf.conf does not have: its rules for all models apply
BUILT_IN_RULES = 0  # FromConfig's kind: the mlperf.conf that is compiled into the package
# LoadGen makes its queries beforehand, from the time that it is told to expect, and a run that has used them up ends
# too early: it is told a time shorter than the fastest of the warm-up by this factor.
FASTER = 1.25


@dataclass(frozen=True)
class Scenario:
    """What is asked for; None: the default of `settings`."""

    name: str
    seconds: float
    min_queries: int | None = None
    target_qps: float | None = None
    target_latency_ms: float = TARGET_LATENCY_MS
    samples_per_query: int | None = None
    network_only: bool = False
    logs: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MLPerf LoadGen", "--seconds is the least duration; the others need --scenario")
    group.add_argument("--scenario", choices=SCENARIOS, help="drive the engines by LoadGen, one after the other")
    group.add_argument(
        "--target-qps", type=positive_float, metavar="QPS", help="Server: images that arrive in a second"
    )
    group.add_argument(
        "--target-latency-ms", type=positive_float, metavar="MS", help=f"Server (default: {TARGET_LATENCY_MS:g})"
    )
    group.add_argument("--samples-per-query", type=positive_number, metavar="N", help="MultiStream (default: 8)")
    group.add_argument("--min-queries", type=positive_number, metavar="N", help="default: what a valid run needs")
    group.add_argument("--network-only", action="store_true", help="pixels to logits; default: image to masks")
    group.add_argument("--logs", type=Path, metavar="DIR", help="keep LoadGen's files, a folder for each engine")


def scenario_of(arguments: argparse.Namespace) -> Scenario | None:
    """None without --scenario. Raises InputError for options that do not go together."""
    given = [name for name in OPTIONS if getattr(arguments, name)]
    flags = {name: f"--{name.replace('_', '-')}" for name in OPTIONS}
    scenario = arguments.scenario
    if scenario is None:
        if given:
            raise InputError(f"{flags[given[0]]}: expected --scenario with it, one of {', '.join(SCENARIOS)}; got none")
        return None
    for name in given:
        if scenario not in ONLY_FOR.get(name, SCENARIOS):
            raise InputError(f"{flags[name]}: expected --scenario {' or '.join(ONLY_FOR[name])}, got {scenario}")
    if scenario == "Server" and not arguments.target_qps:
        raise InputError(
            "--scenario Server: expected --target-qps, the images that arrive in a second, got none; "
            "an engine's SingleStream queries per second are where to begin"
        )
    if arguments.logs and arguments.logs.exists() and not arguments.logs.is_dir():
        raise InputError(f"--logs {arguments.logs}: expected a folder, got a file of that name; choose another")
    chosen = {name: getattr(arguments, name) for name in given}
    return Scenario(scenario, arguments.seconds, **chosen)


def run_scenario(engine: TimedEngine, scenario: Scenario, warm_up: Sequence[float], interval: float) -> dict[str, Any]:
    """LoadGen's own result, its settings, and what the device did. `warm_up`: runs and milliseconds; `interval` of the
    monitor in seconds, 0: none. Raises InputError where the package is absent.
    """
    loadgen = _loadgen()
    work = network_alone(engine) if scenario.network_only else end_to_end(engine)
    batch = engine.segmenter.spec.profile.max[0]
    per_query = {"MultiStream": scenario.samples_per_query or 8, "Offline": batch}.get(scenario.name, 1)
    seconds = _fastest(work, min(batch, per_query), len(engine.images), warm_up)
    settings, differs = _settings(loadgen, scenario, seconds, batch, per_query)
    say(_announcement(engine, scenario, settings, seconds, per_query, batch))
    with _log_folder(engine, scenario) as folder:
        system = SystemUnderTest(loadgen, work, batch, queued=scenario.name == "Server")
        with DeviceMonitor(interval) if interval else contextlib.nullcontext() as monitor:
            _start(loadgen, system, settings, folder, len(engine.images))
        if system.error is not None:
            raise system.error
        log = LoadGenLog.read(folder)
    return {
        "scenario": scenario.name,
        "measures": "network" if scenario.network_only else "end-to-end",
        "verdict": log.verdict,
        "result": _result(scenario.name, log),
        "constraints": log.constraints,
        "notes": log.notes,
        "latency_ms": None if scenario.name == "Offline" else log.latency_ms(),  # there: since the one query was asked
        "queries": log.detail["result_query_count"],
        "samples": system.answered,
        "images": len(engine.images),
        "settings": _stated(scenario.name, settings),
        "differs_from_mlperf": differs,
        "loadgen": log.detail["loadgen_version"],
        "logs": str(_kept_logs(engine, scenario)) if scenario.logs else None,
        "device": monitor.report() if monitor else None,
    }


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise InputError(
            f"--scenario: MLPerf LoadGen cannot be imported ({error}); pip install 'mask2edge[latency]'"
        ) from error
    return mlperf_loadgen


def _fastest(work: Work, batch: int, images: int, warm_up: Sequence[float]) -> float:
    """Seconds of the fastest warm-up run, three at least."""
    runs, milliseconds = warm_up
    run = timed(lambda: work([place % images for place in range(batch)]))
    started = time.perf_counter()
    times: list[float] = []
    while len(times) < max(3, runs) or 1000 * (time.perf_counter() - started) < milliseconds:
        times.append(run()["ms"] / 1000)
    return min(times)


def _settings(
    loadgen: Any, scenario: Scenario, seconds: float, batch: int, per_query: int
) -> tuple[Any, dict[str, dict[str, float]]]:
    """LoadGen's settings, and those that are not MLPerf's: {name: {"here", "mlperf"}}. `seconds`: of one batch."""
    settings = loadgen.TestSettings()
    settings.FromConfig("", ANY_MODEL, scenario.name, BUILT_IN_RULES)
    compared = ("min_duration_ms", "min_query_count", "multi_stream_samples_per_query")
    rules = {name: getattr(settings, name) for name in compared}
    settings.scenario = getattr(loadgen.TestScenario, scenario.name)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * scenario.seconds)
    if scenario.min_queries:
        settings.min_query_count = scenario.min_queries
    elif scenario.name == "Server":  # early stopping takes as many, none of them late
        settings.min_query_count = math.ceil(math.log(0.01) / math.log(settings.server_target_latency_percentile))
    settings.single_stream_expected_latency_ns = _nanoseconds(seconds / FASTER)
    if scenario.name == "MultiStream":
        settings.multi_stream_samples_per_query = per_query
        settings.multi_stream_expected_latency_ns = _nanoseconds(math.ceil(per_query / batch) * seconds / FASTER)
    settings.offline_expected_qps = scenario.target_qps or batch / seconds * FASTER
    if scenario.name == "Server":
        settings.server_target_qps = scenario.target_qps
        settings.server_target_latency_ns = _nanoseconds(scenario.target_latency_ms / 1000)
    here = {name: getattr(settings, name) for name in compared}
    differs = [name for name in compared if here[name] != rules[name]]
    return settings, {name: {"here": here[name], "mlperf": rules[name]} for name in differs}


def _nanoseconds(seconds: float) -> int:
    return max(1, round(1e9 * seconds))


def _stated(scenario: str, settings: Any) -> dict[str, float]:
    """The settings that matter for this scenario, by LoadGen's names."""
    names = {
        "SingleStream": ("single_stream_expected_latency_ns", "single_stream_target_latency_percentile"),
        "MultiStream": (
            "multi_stream_samples_per_query", "multi_stream_expected_latency_ns",
            "multi_stream_target_latency_percentile",
        ),
        "Server": ("server_target_qps", "server_target_latency_ns", "server_target_latency_percentile"),
        "Offline": ("offline_expected_qps",),
    }[scenario]  # fmt: skip
    common = ("min_duration_ms", "min_query_count", "qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
    return {name: getattr(settings, name) for name in (*common, *names)}


def _announcement(
    engine: TimedEngine, scenario: Scenario, settings: Any, seconds: float, per_query: int, batch: int
) -> str:
    """How long it will take, at the least."""
    if scenario.name == "Server":
        queries = settings.min_query_count / settings.server_target_qps
    elif scenario.name == "Offline":
        queries = 1.1 * scenario.seconds
    else:
        queries = settings.min_query_count * math.ceil(per_query / batch) * seconds
    return f"{engine.name}: {scenario.name} by LoadGen, about {max(scenario.seconds, queries):.0f} s"


def _start(loadgen: Any, system: SystemUnderTest, settings: Any, folder: Path, images: int) -> None:
    """Runs the test; its log files go to `folder`. Never raises what `system` met: it keeps that."""
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    logging = loadgen.LogSettings()
    logging.log_output = output
    logging.enable_trace = False
    sut = loadgen.ConstructSUT(system.issue, system.flush)
    # Every image stays in memory all the time: loading and unloading have nothing to do.
    library = loadgen.ConstructQSL(images, images, lambda places: None, lambda places: None)
    try:
        with system.ctrl_c_is_kept():
            loadgen.StartTestWithLogSettings(sut, library, settings, logging, "")  # "": no audit.config from the folder
    finally:
        system.close()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)


def _result(scenario: str, log: LoadGenLog) -> dict[str, Any]:
    """What MLPerf ranks by in this scenario, and queries or images in a second."""
    detail = log.detail
    if scenario == "SingleStream":
        early = detail["early_stopping_latency_ss"]
        return {
            "latency_p90_ms": log.milliseconds("result_90.00_percentile_latency_ns"),
            "early_stopping_p90_ms": log.milliseconds("early_stopping_latency_ss") if early else None,
            "queries_per_s": detail["result_qps_with_loadgen_overhead"],
        }
    if scenario == "MultiStream":
        early = detail["early_stopping_latency_ms"]
        return {
            "latency_p99_ms": log.milliseconds("result_99.00_percentile_per_query_latency_ns"),
            "early_stopping_p99_ms": log.milliseconds("early_stopping_latency_ms") if early else None,
        }
    if scenario == "Server":
        return {
            "latency_p99_ms": log.milliseconds("result_99.00_percentile_latency_ns"),
            "late_queries": detail["result_overlatency_query_count"],
            "scheduled_per_s": detail["result_scheduled_samples_per_sec"],
            "completed_per_s": detail["result_completed_samples_per_sec"],
        }
    return {"samples_per_s": detail["result_samples_per_second"]}


def _kept_logs(engine: TimedEngine, scenario: Scenario) -> Path:
    assert scenario.logs is not None
    return scenario.logs / f"{Path(engine.name).name}-{scenario.name}".replace(" ", "-")


@contextlib.contextmanager
def _log_folder(engine: TimedEngine, scenario: Scenario) -> Iterator[Path]:
    if scenario.logs is None:
        with tempfile.TemporaryDirectory(prefix="mask2edge-loadgen-") as name:
            yield Path(name)
    else:
        with whole_folder(_kept_logs(engine, scenario)) as folder:
            yield folder
