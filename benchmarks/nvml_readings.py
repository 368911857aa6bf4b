"""An NVIDIA GPU's power, clocks, temperature and memory, from the driver's own library (NVML).

    source = NvmlReadings(interval=0.5)     # raises NotPresent without nvidia-ml-py, a driver or a GPU
    source.read()                           # [{"power_w": 61.2, "gpu_clock_mhz": 1980.0, …}]

The GPU is CUDA's first: the one that CUDA_VISIBLE_DEVICES names first, else number 0. CUDA numbers several different
GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML by their slots.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mask2edge.benchmarks.monitor_source import NotPresent

IDLE = 1  # nvmlClocksThrottleReasonGpuIdle: that clocks are low then is no throttling
REASON = "nvmlClocksThrottleReason"  # the old names, which every version of nvidia-ml-py has


class NvmlReadings:
    """What the GPU does not report (a Jetson's gives hardly anything) is left out."""

    def __init__(self, interval: float) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NotPresent("nvidia-ml-py is not installed; pip install 'mask2edge[latency]'") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NotPresent(str(error)) from error
        try:
            self._gpu = self._first_gpu()
        except pynvml.NVMLError as error:
            pynvml.nvmlShutdown()
            raise NotPresent(str(error)) from error
        name, limit = self._ask("nvmlDeviceGetName"), self._ask("nvmlDeviceGetEnforcedPowerLimit")  # mW
        self.facts = {
            "name": name.decode() if isinstance(name, bytes) else name,  # bytes before nvidia-ml-py 11.5
            "power_limit_w": None if limit is None else limit / 1000,
        }
        self._throttled = 0

    def read(self) -> list[dict[str, float]]:
        nvml = self._nvml
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        shares = self._ask("nvmlDeviceGetUtilizationRates")
        power = self._ask("nvmlDeviceGetPowerUsage")  # mW
        self._throttled |= self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        readings = {
            "power_w": None if power is None else power / 1000,
            "temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "gpu_clock_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            "gpu_memory_mb": None if memory is None else memory.used / 2**20,
            "gpu_share": None if shares is None else shares.gpu / 100,
        }
        known = {name: float(value) for name, value in readings.items() if value is not None}
        return [known] if known else []

    def close(self) -> dict[str, Any]:
        """{"throttled": [what kept the clocks down at some time, by NVML's names]}"""
        names: dict[int, str] = {}
        for name in sorted(dir(self._nvml), reverse=True):  # of two names for one bit, the first of the alphabet
            if name.startswith(REASON):
                names[getattr(self._nvml, name)] = name.removeprefix(REASON)
        seen = self._throttled & ~IDLE
        self._nvml.nvmlShutdown()
        return {"throttled": sorted(name for bit, name in names.items() if bit & seen and bit.bit_count() == 1)}

    def _first_gpu(self) -> Any:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if chosen.startswith(("GPU-", "MIG-")):
            return self._nvml.nvmlDeviceGetHandleByUUID(chosen)
        return self._nvml.nvmlDeviceGetHandleByIndex(int(chosen) if chosen.isdigit() else 0)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """None for what this GPU, or this version of the library, does not tell."""
        call: Callable[..., Any] | None = getattr(self._nvml, function, None)
        if call is None:
            return None
        try:
            return call(self._gpu, *arguments)
        except self._nvml.NVMLError:
            return None
