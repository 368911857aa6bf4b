"""Fair timing of several contenders in one run: interleaved, warmed up, summed up as percentiles.

    times = interleave({"a": run_a, "b": run_b}, runs=50, warmup=5)   # run_a() -> {"network": 12.3} in milliseconds
    summarize([t["network"] for t in times["a"]])   # {"p50", "p90", "p95", "p99", "mean", "min", "max"}

Contenders take turns run by run, and the order turns round every round, so that a machine that becomes hot, or busy
with something else, slows all of them alike: ratios of medians hold where times do not.

Warm-up, duration and percentiles follow NVIDIA's trtexec (samples/common/sampleOptions.h, sampleReporting.cpp).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

# A thread pool spins on after its work, ONNX Runtime's for 50 ms and more; the next contender should not share the
# cores with that. A pause is repeated until the process uses less than a tenth of one core.
PAUSE_SECONDS = 0.01
MOST_PAUSES = 100
PERCENTILES = (90, 95, 99)  # trtexec's default

Run = Callable[[], dict[str, float]]


def timed(call: Callable[[], object]) -> Run:
    """A contender that returns {"ms": what one call takes}."""

    def run() -> dict[str, float]:
        started = time.perf_counter()
        call()
        return {"ms": 1000 * (time.perf_counter() - started)}

    return run


def interleave(
    contenders: Mapping[str, Run],
    runs: int | None = None,
    seconds: float | None = None,
    warmup: int = 3,
    least: int = 3,
    pause: float = 0.0,
) -> dict[str, list[dict[str, float]]]:
    """Runs every contender `runs` times, or in turns until `seconds` have passed (`least` times each at least).

    Each contender returns its own times in milliseconds; the result lists them per contender, warm-up left out.
    `pause`: seconds of sleep before each timed run.
    """
    times: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for run in contenders.values():
        warm_up(run, warmup)
    order = list(contenders)
    started = time.perf_counter()
    done = 0
    while not _enough(done, runs, time.perf_counter() - started, seconds, least):
        for name in order:
            wait_for_idle_pools()
            if pause:
                time.sleep(pause)
            times[name].append(contenders[name]())
        order.reverse()
        done += 1
    return times


def warm_up(run: Run, runs: int, milliseconds: float = 0.0) -> None:
    """Runs that are not counted, until there were `runs` of them and `milliseconds` have passed."""
    started = time.perf_counter()
    done = 0
    while done < runs or 1000 * (time.perf_counter() - started) < milliseconds:
        run()
        done += 1


def wait_for_idle_pools() -> None:
    """Returns once this process's threads sleep; after a second at the latest."""
    for _ in range(MOST_PAUSES if PAUSE_SECONDS else 0):
        before = time.process_time()
        time.sleep(PAUSE_SECONDS)
        if time.process_time() - before < 0.1 * PAUSE_SECONDS:
            return


def _enough(done: int, runs: int | None, elapsed: float, seconds: float | None, least: int) -> bool:
    if runs is not None:
        return done >= runs
    return done >= least and elapsed >= (seconds or 0.0)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """trtexec's rule, for runs in rising order: the slowest (100 - percent) % are set aside, rounded down to whole
    runs, and the slowest that is left is the percentile. Always a time that was measured: nothing is interpolated.
    """
    aside = (100 - percent) * len(ordered) // 100
    return ordered[len(ordered) - 1 - aside]


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """The median as p50, the percentiles of PERCENTILES, mean, min and max, in milliseconds to the microsecond."""
    ordered = sorted(float(value) for value in milliseconds)
    summary = {"p50": statistics.median(ordered)}
    summary |= {f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES}
    summary |= {"mean": statistics.fmean(ordered), "min": ordered[0], "max": ordered[-1]}
    return {name: round(value, 3) for name, value in summary.items()}
