"""Fair timing of several contenders in one run: interleaved, warmed up, summed up as percentiles.

    times = interleave({"a": run_a, "b": run_b}, runs=50, warmup=5)   # run_a() -> {"network": 12.3} in milliseconds
    summarize([t["network"] for t in times["a"]])                      # {"p50": …, "p90": …, "p99": …, "mean": …}

Contenders take turns run by run, and the order turns round every round, so that a machine that becomes hot, or busy
with something else, slows all of them alike: ratios of medians hold where times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# A thread pool spins on after its work, ONNX Runtime's for 50 ms and more; the next contender should not share the
# cores with that. A pause is repeated until the process uses less than a tenth of one core.
PAUSE_SECONDS = 0.01
MOST_PAUSES = 100

Run = Callable[[], dict[str, float]]


def timed(call: Callable[[], object]) -> Run:
    """A contender that returns {"ms": what one call takes}."""

    def run() -> dict[str, float]:
        started = time.perf_counter()
        call()
        return {"ms": 1000 * (time.perf_counter() - started)}

    return run


def interleave(
    contenders: Mapping[str, Run], runs: int | None = None, seconds: float | None = None, warmup: int = 3
) -> dict[str, list[dict[str, float]]]:
    """Runs every contender `runs` times, or in turns until `seconds` have passed (three times each at least).

    Each contender returns its own times in milliseconds; the result lists them per contender, warm-up left out.
    """
    times: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(warmup):
            run()
    order = list(contenders)
    started = time.perf_counter()
    done = 0
    while not _enough(done, runs, time.perf_counter() - started, seconds):
        for name in order:
            wait_for_idle_pools()
            times[name].append(contenders[name]())
        order.reverse()
        done += 1
    return times


def wait_for_idle_pools() -> None:
    """Returns once this process's threads sleep; after a second at the latest."""
    for _ in range(MOST_PAUSES if PAUSE_SECONDS else 0):
        before = time.process_time()
        time.sleep(PAUSE_SECONDS)
        if time.process_time() - before < 0.1 * PAUSE_SECONDS:
            return


def _enough(done: int, runs: int | None, elapsed: float, seconds: float | None) -> bool:
    if runs is not None:
        return done >= runs
    return done >= 3 and elapsed >= (seconds or 0.0)


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 (linear between the two nearest runs) and mean, in milliseconds to the microsecond."""
    values = np.asarray(milliseconds, np.float64)  # [runs]
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {key: round(float(v), 3) for key, v in (("p50", p50), ("p90", p90), ("p99", p99), ("mean", values.mean()))}
