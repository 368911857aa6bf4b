"""A Jetson's memory, load, clocks, temperatures and power, from the lines of its `tegrastats`.

    source = TegrastatsReadings(interval=0.5)   # raises NotPresent where there is no such program
    parse_line("… GR3D_FREQ 99%@[612] … tj@58.312C VDD_IN 16321mW/11204mW …")
    # {"gpu_share": 0.99, "gpu_clock_mhz": 612.0, "temperature_tj_c": 58.312, "power_vdd_in_w": 16.321, …}

Formats: the Tegrastats Utility chapter of the Jetson Linux Developer Guide, r35 (JetPack 5) and r36 (JetPack 6). A line
has what the module has, and without root some lack clocks. r32 (JetPack 4) wrote rails without a unit.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from mask2edge.benchmarks.monitor_source import NotPresent

PROGRAM = "tegrastats"
# All that the module takes, as Orin Nano, Orin NX and Xavier NX call it, and the Nano. AGX Orin has no such rail, and
# what its rails add up to is not called a total here.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
LEAST_TEMPERATURE = -100.0  # a sensor of a part that is switched off says -256 °C

_RAM = re.compile(r"\bRAM (\d+)/\d+MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_CORE = re.compile(r"(\d+)%@(\d+)")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%(?:@\[?([\d,]+)\]?)?")
_MEMORY_CLOCK = re.compile(r"\bEMC_FREQ \d+%@(\d+)")
_TEMPERATURE = re.compile(r"\b(\w+)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)mW/\d+(?:mW)?(?!\S)")
_RAIL_WITHOUT_UNIT = re.compile(r"\b((?:POM|VDD)_[A-Z0-9_]+) (\d+)/\d+(?!\S)")


def parse_line(line: str) -> dict[str, float]:
    """What the line holds, by name; nothing for a line of another kind. Power is the moment's, not the average."""
    found: dict[str, float] = {}
    if match := _RAM.search(line):
        found["ram_mb"] = float(match[1])
    if match := _CPU.search(line):
        cores = [(int(load), int(clock)) for load, clock in _CORE.findall(match[1])]  # `off` is no core
        if cores:
            found["cpu_share"] = sum(load for load, _ in cores) / len(cores) / 100
            found["cpu_clock_mhz"] = float(max(clock for _, clock in cores))
    if match := _GPU.search(line):
        found["gpu_share"] = int(match[1]) / 100
        if match[2]:
            found["gpu_clock_mhz"] = float(max(int(clock) for clock in match[2].split(",") if clock))
    if match := _MEMORY_CLOCK.search(line):
        found["memory_clock_mhz"] = float(match[1])
    temperatures = {name.lower(): float(value) for name, value in _TEMPERATURE.findall(line)}
    temperatures = {
        name: value for name, value in temperatures.items() if value > LEAST_TEMPERATURE and name != "pmic"
    }  # the PMIC's is a placeholder of 50 or 100 °C
    found |= {f"temperature_{name}_c": value for name, value in temperatures.items()}
    if temperatures:
        found["temperature_c"] = max(temperatures.values())  # the hottest
    rails = {name: int(value) / 1000 for name, value in (*_RAIL.findall(line), *_RAIL_WITHOUT_UNIT.findall(line))}
    rails.pop("NC", None)  # a channel that is not connected
    found |= {f"power_{name.lower()}_w": value for name, value in rails.items()}
    if total := next((name for name in TOTAL_RAILS if name in rails), None):
        found["power_w"] = rails[total]
    return found


class TegrastatsReadings:
    """The program runs as long as the source is open. A line that cannot be read is passed over."""

    def __init__(self, interval: float) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise NotPresent("no such program: this is no Jetson, or PATH lacks it")
        milliseconds = str(max(1, round(1000 * interval)))
        try:
            self._process = subprocess.Popen(
                [program, "--interval", milliseconds],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise NotPresent(f"{program}: {error.strerror}") from error
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self.facts: Mapping[str, Any] = {}

    def read(self) -> list[dict[str, float]]:
        """One for each line since the last call."""
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self._pipe, 1 << 16):
                self._rest += block
        *lines, self._rest = self._rest.split(b"\n")
        return [found for line in lines if (found := parse_line(line.decode("utf-8", "replace")))]

    def close(self) -> dict[str, Any]:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return {}
