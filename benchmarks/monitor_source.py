"""What a source of readings is to device_monitor.py.

    for reading in source.read(): ...     # [{"power_w": 61.2, …}], whatever came since the last call

The sources: ProcessReadings beside the monitor, nvml_readings.py, tegrastats_readings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class NotPresent(Exception):
    """The source cannot be read on this machine; the message says why."""


class Source(Protocol):
    """Its constructor takes the interval in seconds, and raises NotPresent."""

    facts: Mapping[str, Any]  # what does not change: a GPU's name

    def read(self) -> list[dict[str, float]]:
        """What was measured since the last call: none, one or several sets of readings by name."""

    def close(self) -> dict[str, Any]:
        """Ends it, and returns what is known only then."""
