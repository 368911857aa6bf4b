"""Interleaving and percentiles of timing.py, and the description of the machine."""

import json
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.benchmarks import machine, timing


def largest_left(values, percent):
    """trtexec's rule, run by run: the largest is set aside as long as that leaves no more than 100 - percent aside."""
    left = sorted(values)
    aside = 0
    while (aside + 1) * 100 <= (100 - percent) * len(values):
        left.pop()
        aside += 1
    return left[-1]


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=250))
def test_percentiles_are_trtexecs(values):
    summary = timing.summarize(values)
    expected = {f"p{percent}": largest_left(values, percent) for percent in (90, 95, 99)}
    expected |= {"p50": statistics.median(values), "mean": statistics.fmean(values)}
    expected |= {"min": min(values), "max": max(values)}
    assert summary == pytest.approx(expected, abs=6e-4, rel=1e-6)


def test_percentiles_of_a_hundred_runs():
    summary = timing.summarize(range(1, 101))
    found = [summary[name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert found == [50.5, 90, 95, 99, 100]


def test_one_run_is_its_own_percentiles():
    assert set(timing.summarize([5.0]).values()) == {5.0}


def test_a_call_is_timed_in_milliseconds():
    calls = []
    run = timing.timed(lambda: (calls.append(None), time.sleep(0.02)))
    assert calls == []
    assert run()["ms"] >= 20
    assert list(run()) == ["ms"]
    assert len(calls) == 2


def test_contenders_take_turns_and_the_order_turns_round(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    calls = []

    def contender(name):
        def run():
            calls.append(name)
            return {"network": float(len(calls))}

        return run

    times = timing.interleave({"a": contender("a"), "b": contender("b")}, runs=3, warmup=1)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [t["network"] for t in times["a"]] == [3, 6, 7]  # the warm-up is not among them
    assert [t["network"] for t in times["b"]] == [4, 5, 8]


def test_seconds_bound_the_time_and_three_rounds_are_the_least(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    assert len(timing.interleave({"a": dict}, seconds=0.0, warmup=0)["a"]) == 3
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    # One tick a round: 5.0 are over when the fifth would begin.
    assert len(timing.interleave({"a": dict}, seconds=5.0, warmup=0)["a"]) == 4


def test_least_and_pause(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0.0)
    slept = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    times = timing.interleave({"a": dict, "b": dict}, seconds=0.0, warmup=2, least=4, pause=0.7)
    assert [len(found) for found in times.values()] == [4, 4]
    assert slept == [0.7] * 8  # before each timed run, none before the warm-up's


@pytest.mark.parametrize(("runs", "milliseconds", "expected"), [(0, 0, 0), (3, 0, 3), (2, 4500, 5), (7, 4500, 7)])
def test_warm_up_lasts_until_runs_and_time_are_done(runs, milliseconds, expected, monkeypatch):
    done = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(len(done)))  # a run takes a second
    timing.warm_up(lambda: done.append(1), runs, milliseconds)
    assert len(done) == expected


def test_machine_is_described_in_json(capsys):
    assert machine.main(["--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {"machine", "cpu", "cores", "memory_gb", "os", "python", "versions"} == set(described)
    assert described["cores"] >= 1
    assert described["versions"]["numpy"]
    assert machine.main([]) == 0
    assert described["cpu"] in capsys.readouterr().out


CPUS = [
    (
        "processor\t: 0\nflags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni amx_int8\n",
        "avx2 fma avx512f avx512_vnni amx_int8",
    ),
    ("processor\t: 0\nFeatures\t: fp asimd aes asimddp i8mm\nflags : avx2\n", "asimd asimddp i8mm"),
    ("Hardware\t: a board that says nothing\n", ""),
]


@pytest.mark.parametrize(("cpuinfo", "expected"), CPUS, ids=["x86-64", "aarch64", "neither"])
def test_instruction_set_is_what_linux_lists(cpuinfo, expected, monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: cpuinfo)
    assert machine.instruction_set() == expected.split()
