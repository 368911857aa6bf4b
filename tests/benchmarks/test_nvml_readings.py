"""nvml_readings.py with a pretend pynvml: what is read, what is left out, which GPU, and none at all."""

import sys

import pytest
from monitor_doubles import H100, H100_READING, PretendNvml, install_nvml

from mask2edge.benchmarks.monitor_source import NotPresent
from mask2edge.benchmarks.nvml_readings import NvmlReadings


def test_nvml_readings(monkeypatch):
    module = install_nvml(monkeypatch, H100)
    source = NvmlReadings(0.5)
    assert source.facts == {"name": "NVIDIA H100 80GB HBM3", "power_limit_w": 700}
    assert source.read() == [H100_READING]
    assert source.close() == {"throttled": ["ApplicationsClocksSetting", "SwThermalSlowdown"]}  # idle is no throttling
    assert module.calls[-1] == "shutdown"


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch):
    install_nvml(monkeypatch, {("nvmlDeviceGetName",): b"Orin (nvgpu)", ("nvmlDeviceGetTemperature", 0): 48})
    source = NvmlReadings(0.5)
    assert source.facts == {"name": "Orin (nvgpu)", "power_limit_w": None}
    assert source.read() == [{"temperature_c": 48}]
    assert source.close() == {"throttled": []}
    install_nvml(monkeypatch, {})
    assert NvmlReadings(0.5).read() == []


@pytest.mark.parametrize(
    ("visible", "gpu"), [("", "gpu 0"), ("2,0", "gpu 2"), ("GPU-12ab", "gpu GPU-12ab"), ("MIG-7,GPU-1", "gpu MIG-7")]
)
def test_the_gpu_is_cudas_first(visible, gpu, monkeypatch):
    module = install_nvml(monkeypatch, H100, gpus=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    NvmlReadings(0.5).read()
    assert {call[0] for call in module.calls if isinstance(call, tuple)} == {gpu}


def test_nvml_that_is_not_there(monkeypatch):
    install_nvml(monkeypatch, H100, gpus=None)
    with pytest.raises(NotPresent, match="Driver Not Loaded"):
        NvmlReadings(0.5)
    module = install_nvml(monkeypatch, H100, gpus=0)
    with pytest.raises(NotPresent, match="Invalid Argument"):
        NvmlReadings(0.5)
    assert module.calls == ["init", "shutdown"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NotPresent, match=r"pip install 'mask2edge\[latency\]'"):
        NvmlReadings(0.5)


def test_the_pretended_names_are_nvmls_own():
    import pynvml

    for name in vars(PretendNvml):
        if name.startswith(("nvml", "NVML_")):
            assert hasattr(pynvml, name), name
            if isinstance(value := vars(PretendNvml)[name], int) and not name.endswith("All"):
                assert getattr(pynvml, name) == value, name
    for name, *_ in H100:
        assert callable(getattr(pynvml, name))
