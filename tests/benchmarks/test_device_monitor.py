"""device_monitor.py: a busy process, readings at an interval, summaries, a table's columns, and what is not there."""

import time

import pytest
from monitor_doubles import H100, install_nvml, until

from mask2edge.benchmarks.device_monitor import COLUMNS, DeviceMonitor, ProcessReadings, lines, row, summaries


def test_a_process_that_works_uses_cores_and_memory():
    source = ProcessReadings(0.5)
    held = bytearray(32 << 20)
    until(lambda: time.process_time() - source._last[1] > 0.05)
    (reading,) = source.read()
    assert 0 < reading["cpu_share"] <= 1.05
    assert reading["memory_mb"] > len(held) / 2**20
    assert source.close()["memory_peak_mb"] >= reading["memory_mb"] - 1


def test_monitor_reads_at_the_interval_and_says_what_is_not_there(monkeypatch):
    install_nvml(monkeypatch, H100)
    monkeypatch.setenv("PATH", "")
    with DeviceMonitor(0.01) as monitor:
        until(lambda: len(monitor._found["nvml"]) >= 5)
    report = monitor.report()
    assert report["interval_s"] == 0.01
    assert report["seconds"] > 0.04
    assert report["nvml"]["readings"] >= 6  # one more at the end
    assert report["nvml"]["power_w"] == {"min": 412.5, "mean": 412.5, "max": 412.5, "last": 412.5}
    assert report["process"]["memory_mb"]["max"] > 1
    assert report["tegrastats"] is None
    assert "no Jetson" in report["not_present"]["tegrastats"]
    shown = list(lines(report))
    assert any("power_w 412.5 (412.5 to 412.5)" in line and "throttled Application" in line for line in shown)
    assert shown[-1].startswith("not present: tegrastats (no such program")


def test_a_row_has_each_column_of_the_first_source_that_knows_it():
    one = {"min": 1.0, "mean": 2.0, "max": 3.0, "last": 2.5}
    report = {
        "process": {"cpu_share": {name: value / 10 for name, value in one.items()}, "memory_peak_mb": 123.4},
        "nvml": {"temperature_c": one},
        "tegrastats": {
            "cpu_share": one,
            "temperature_c": dict.fromkeys(one, 9.0),
            "power_w": one,
            "gpu_clock_mhz": one,
        },
        "not_present": {},
    }
    assert row(report) == {
        "cpu_share": 0.2, "memory_peak_mb": 123.4, "power_w": 2.0, "temperature_max_c": 3.0, "gpu_clock_min_mhz": 1.0,
    }  # fmt: skip
    assert row(report, alone=False) == row(report) | {"memory_peak_mb": ""}
    assert row(None) == dict.fromkeys(COLUMNS, "")


def test_summaries_are_over_the_readings_that_have_the_name():
    found = summaries([{"a": 3.0}, {"a": 1.0, "b": 7.0}, {"a": 2.0}])
    assert found == {
        "a": {"min": 1.0, "mean": 2.0, "max": 3.0, "last": 2.0},
        "b": {"min": 7.0, "mean": 7.0, "max": 7.0, "last": 7.0},
    }


def test_a_source_is_closed_after_an_error(monkeypatch):
    module = install_nvml(monkeypatch, H100)
    with pytest.raises(RuntimeError, match="network"), DeviceMonitor(0.01):
        raise RuntimeError("network")
    assert module.calls[-1] == "shutdown"
