"""What the device does while something is timed: CPU, memory, and where they can be read power, clocks, temperature.

    with DeviceMonitor(interval=0.5) as monitor:
        ...
    monitor.report()      # {"process": {"cpu_share": {"min", "mean", "max", "last"}, …}, "nvml": None, …}

A thread reads every source at the interval: this process (/proc), an NVIDIA GPU (nvml_readings.py) and a Jetson
(tegrastats_readings.py). A source that is not there is None in the report, with the reason under "not_present".
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mask2edge.benchmarks.monitor_source import NotPresent, Source
from mask2edge.benchmarks.nvml_readings import NvmlReadings
from mask2edge.benchmarks.peak_memory import peak_of_this_process_mb
from mask2edge.benchmarks.tegrastats_readings import TegrastatsReadings

STATM = Path("/proc/self/statm")
DIGITS = 3
# Of a table: the reading, and which of its figures. A clock's least is what throttling shows in.
FIGURES = {
    "cpu_share": ("cpu_share", "mean"),
    "memory_peak_mb": ("memory_peak_mb", ""),
    "power_w": ("power_w", "mean"),
    "temperature_max_c": ("temperature_c", "max"),
    "gpu_clock_min_mhz": ("gpu_clock_mhz", "min"),
}
COLUMNS = tuple(FIGURES)


class ProcessReadings:
    """This process: the share that it uses of the cores it may use (1: all of them), and its resident memory in MB."""

    def __init__(self, interval: float) -> None:
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.facts = {"cores": self._cores}
        self._last = time.perf_counter(), time.process_time()

    def read(self) -> list[dict[str, float]]:
        wall, cpu = time.perf_counter(), time.process_time()
        passed, used = wall - self._last[0], cpu - self._last[1]
        if passed <= 0:
            return []
        self._last = wall, cpu
        readings = {"cpu_share": used / passed / self._cores}
        try:
            pages = int(STATM.read_text(encoding="ascii").split()[1])
            readings["memory_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        except (OSError, ValueError):  # no Linux
            pass
        return [readings]

    def close(self) -> dict[str, Any]:
        return {"memory_peak_mb": round(peak_of_this_process_mb(), 1)}  # since the program began, loading included


SOURCES: Mapping[str, Callable[[float], Source]] = {
    "process": ProcessReadings,
    "nvml": NvmlReadings,
    "tegrastats": TegrastatsReadings,
}


class DeviceMonitor:
    """Reads every source of SOURCES from the beginning of a `with` to its end."""

    def __init__(self, interval: float = 0.5) -> None:
        self._interval = interval
        self._open: dict[str, Source] = {}
        self._absent: dict[str, str] = {}
        self._found: dict[str, list[dict[str, float]]] = {}
        self._ends: dict[str, dict[str, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="device-monitor", daemon=True)
        self._seconds = 0.0

    def __enter__(self) -> DeviceMonitor:
        for name, source in SOURCES.items():
            try:
                self._open[name] = source(self._interval)
                self._found[name] = []
            except NotPresent as reason:
                self._absent[name] = str(reason)
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()  # a run that is shorter than the interval has one reading
        self._seconds = time.perf_counter() - self._started
        for name, source in self._open.items():
            self._ends[name] = source.close()

    def report(self) -> dict[str, Any]:
        """After the `with`: {"interval_s", "seconds", one entry for each of SOURCES, "not_present": {name: reason}}."""
        result: dict[str, Any] = {"interval_s": self._interval, "seconds": round(self._seconds, DIGITS)}
        absent = dict(self._absent)
        for name in SOURCES:
            found = self._found.get(name)
            result[name] = None
            if found:
                result[name] = {
                    **self._open[name].facts,
                    "readings": len(found),
                    **summaries(found),
                    **self._ends[name],
                }
            elif name not in absent:
                absent[name] = "it gave no reading"
        return result | {"not_present": absent}

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self._read()

    def _read(self) -> None:
        for name, source in self._open.items():
            self._found[name] += source.read()


def summaries(readings: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """{name: {"min", "mean", "max", "last"}} over the sets of readings that have the name."""
    names = dict.fromkeys(name for one in readings for name in one)
    found = {name: [one[name] for one in readings if name in one] for name in names}
    return {
        name: {
            "min": round(min(values), DIGITS),
            "mean": round(statistics.fmean(values), DIGITS),
            "max": round(max(values), DIGITS),
            "last": round(values[-1], DIGITS),
        }
        for name, values in found.items()
    }


def lines(report: Mapping[str, Any] | None) -> Iterator[str]:
    """For people: a line for each source, and one for what was not present."""
    if report is None:
        yield "device: not watched (--monitor 0)"
        return
    for name in SOURCES:
        if report[name]:
            yield f"{name}: " + ", ".join(_shown(key, value) for key, value in report[name].items())
    if report["not_present"]:
        yield "not present: " + "; ".join(f"{name} ({reason})" for name, reason in report["not_present"].items())


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name} {value['mean']:g} ({value['min']:g} to {value['max']:g})"
    return f"{name} {' '.join(value) or 'never'}" if isinstance(value, list) else f"{name} {value}"


def row(report: Mapping[str, Any] | None, alone: bool = True) -> dict[str, Any]:
    """COLUMNS of a table of results, of the first source that has each; empty for what was not present. `alone`: no
    other engine was open in the process, whose memory is in its peak.
    """
    found: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    for name in reversed(SOURCES if report else ()):
        source = (report or {})[name] or {}
        found |= {column: _cell(source[key], kind) for column, (key, kind) in FIGURES.items() if key in source}
    return found if alone else found | {"memory_peak_mb": ""}


def _cell(value: Any, kind: str) -> Any:
    return value[kind] if isinstance(value, dict) else value
