"""Interleaving and percentiles of timing.py, and the description of the machine."""

import json
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.benchmarks import machine, timing


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=60))
def test_percentiles_against_the_standard_library(values):
    summary = timing.summarize(values)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "mean": statistics.fmean(values)}
    assert summary == pytest.approx(expected, abs=6e-4, rel=1e-6)
    assert summary["p50"] <= summary["p90"] <= summary["p99"] <= round(max(values), 3)


def test_one_run_is_its_own_percentiles():
    assert timing.summarize([5.0]) == {"p50": 5.0, "p90": 5.0, "p99": 5.0, "mean": 5.0}


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
