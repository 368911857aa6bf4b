"""Doubles for the monitor's sources: a pynvml without a GPU; and waiting for what a thread or a process does."""

import sys
import time
import types

import pytest


def until(condition):
    """What `condition` returns once that is true; half a minute at the most."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class PretendNvml(types.ModuleType):
    """pynvml's functions that are used, of a GPU that answers what `answers` holds and refuses the rest."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2
    nvmlClocksThrottleReasonGpuIdle = 0x1
    nvmlClocksThrottleReasonApplicationsClocksSetting = 0x2
    nvmlClocksThrottleReasonUserDefinedClocks = 0x2
    nvmlClocksThrottleReasonSwPowerCap = 0x4
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonNone = 0
    nvmlClocksThrottleReasonAll = 0x27

    class NVMLError(Exception):
        pass

    def __init__(self, answers, gpus=1):
        super().__init__("pynvml")
        self.answers, self.gpus, self.calls = answers, gpus, []
        # dir() of a module lists what is its own.
        self.__dict__.update(
            {name: value for name, value in vars(PretendNvml).items() if name.startswith("nvmlClocks")}
        )

    def nvmlInit(self):
        self.calls.append("init")
        if self.gpus is None:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self):
        self.calls.append("shutdown")

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= self.gpus:
            raise self.NVMLError("Invalid Argument")
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return f"gpu {uuid}"

    def __getattr__(self, name):
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def ask(gpu, *arguments):
            self.calls.append((gpu, name, *arguments))
            try:
                return self.answers[(name, *arguments)]
            except KeyError:
                raise self.NVMLError("Not Supported") from None

        return ask


H100 = {
    ("nvmlDeviceGetName",): "NVIDIA H100 80GB HBM3",
    ("nvmlDeviceGetEnforcedPowerLimit",): 700_000,
    ("nvmlDeviceGetPowerUsage",): 412_500,
    ("nvmlDeviceGetTemperature", 0): 61,
    ("nvmlDeviceGetClockInfo", 1): 1980,
    ("nvmlDeviceGetClockInfo", 2): 2619,
    ("nvmlDeviceGetMemoryInfo",): types.SimpleNamespace(used=3 * 2**30),
    ("nvmlDeviceGetUtilizationRates",): types.SimpleNamespace(gpu=87),
    ("nvmlDeviceGetCurrentClocksThrottleReasons",): 0x1 | 0x2 | 0x20,
}
H100_READING = {
    "power_w": 412.5, "temperature_c": 61, "gpu_clock_mhz": 1980, "memory_clock_mhz": 2619, "gpu_memory_mb": 3072,
    "gpu_share": 0.87,
}  # fmt: skip


def install_nvml(monkeypatch: pytest.MonkeyPatch, answers, gpus=1) -> PretendNvml:
    """`gpus` None: there is no driver."""
    module = PretendNvml(answers, gpus)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module
