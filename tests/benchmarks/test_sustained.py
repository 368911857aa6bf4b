"""sustained.py: how long it runs, and the course of the medians."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.benchmarks import sustained


def test_a_course_is_the_medians_of_ten_equal_parts():
    found = sustained.course([10.0] * 10 + [11.0] * 80 + [15.0, 14.0, 99.0, 15.0, 15.0, 16.0, 15.0, 15.0, 1.0, 15.0])
    assert found == {"tenths_ms": [10.0] + [11.0] * 8 + [15.0], "first_ms": 10.0, "last_ms": 15.0, "ratio": 1.5}


@given(st.lists(st.floats(0.1, 1e4), min_size=10, max_size=64))
def test_every_run_is_in_one_tenth(values):
    found = sustained.course(values)
    assert len(found["tenths_ms"]) == 10
    assert all(min(values) - 1e-3 <= one <= max(values) + 1e-3 for one in found["tenths_ms"])
    if len(values) == 10:
        assert found["tenths_ms"] == pytest.approx(values, abs=1e-3)


def test_it_runs_without_a_pause_until_the_time_is_over(monkeypatch):
    done = []
    monkeypatch.setattr(sustained.time, "perf_counter", lambda: 0.25 * len(done))  # a run takes a quarter of a second
    times = sustained.sustain(lambda: done.append(1) or {"total": 1.0}, seconds=5.1, least=1)
    assert len(times) == len(done) == 21


@pytest.mark.parametrize(("least", "expected"), [(1, 10), (12, 12)])
def test_there_are_enough_runs_for_ten_parts(least, expected):
    assert len(sustained.sustain(lambda: {"total": 1.0}, seconds=0.0, least=least)) == expected
