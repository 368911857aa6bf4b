"""tegrastats_readings.py: lines of each JetPack, and a pretend program in PATH.

The lines are in the formats of Jetson Linux r32 (JetPack 4), r35 (5) and r36 (6); none was recorded by us.
"""

import os

import pytest
from monitor_doubles import until

from mask2edge.benchmarks import device_monitor
from mask2edge.benchmarks.device_monitor import DeviceMonitor
from mask2edge.benchmarks.tegrastats_readings import TegrastatsReadings, parse_line

ORIN_NANO_R36 = (  # JetPack 6, as root
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,off,off] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off VIC off APE 200 "
    "cpu@57.125C soc2@55.093C gpu@58.625C tj@58.312C VDD_IN 16321mW/11204mW "
    "VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3121mW/3000mW"
)
ORIN_NANO_PLAIN = (  # JetPack 6, without root: no clock of GPU and memory
    "12-23-2024 22:54:11 RAM 3162/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,3%@729] GR3D_FREQ 1% "
    "cpu@62.843C tj@62.843C VDD_IN 3913mW/3922mW VDD_CPU_GPU_CV 598mW/598"
)
AGX_ORIN_R35 = (  # JetPack 5: two clusters, sensors of parts that are off, a channel that is not connected, no total
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) CPU [0%@729,10%@2188] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 45%@[1300,1290] "
    "VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C GPU@-256C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW"
)
NANO_R32 = (
    "RAM 1766/3964MB (lfb 197x4MB) SWAP 0/2048MB (cached 0MB) CPU [24%@1224,16%@1224] EMC_FREQ 0% GR3D_FREQ 0% PLL@21C "
    "CPU@25C PMIC@100C GPU@23.5C thermal@24.5C POM_5V_IN 2545/2547 POM_5V_GPU 0/0 POM_5V_CPU 549/529"
)
LINES = {
    "r36": (ORIN_NANO_R36, {
        "ram_mb": 6712, "cpu_share": 0.2, "cpu_clock_mhz": 1497, "memory_clock_mhz": 2133, "gpu_share": 0.99,
        "gpu_clock_mhz": 612, "temperature_cpu_c": 57.125, "temperature_soc2_c": 55.093, "temperature_gpu_c": 58.625,
        "temperature_tj_c": 58.312, "temperature_c": 58.625, "power_vdd_in_w": 16.321, "power_vdd_cpu_gpu_cv_w": 7.104,
        "power_vdd_soc_w": 3.121, "power_w": 16.321,
    }),
    "r36 without root": (ORIN_NANO_PLAIN, {
        "ram_mb": 3162, "cpu_share": 0.02, "cpu_clock_mhz": 729, "gpu_share": 0.01, "temperature_cpu_c": 62.843,
        "temperature_tj_c": 62.843, "temperature_c": 62.843, "power_vdd_in_w": 3.913, "power_vdd_cpu_gpu_cv_w": 0.598,
        "power_w": 3.913,
    }),
    "r35": (AGX_ORIN_R35, {
        "ram_mb": 4321, "cpu_share": 0.05, "cpu_clock_mhz": 2188, "memory_clock_mhz": 2133, "gpu_share": 0.45,
        "gpu_clock_mhz": 1300, "temperature_cpu_c": 44.562, "temperature_tboard_c": 32, "temperature_tj_c": 44.343,
        "temperature_c": 44.562, "power_vdd_gpu_soc_w": 2.34, "power_vdd_cpu_cv_w": 0.39, "power_vin_sys_5v0_w": 4.025,
    }),
    "r32": (NANO_R32, {
        "ram_mb": 1766, "cpu_share": 0.2, "cpu_clock_mhz": 1224, "gpu_share": 0, "temperature_pll_c": 21,
        "temperature_cpu_c": 25, "temperature_gpu_c": 23.5, "temperature_thermal_c": 24.5, "temperature_c": 25,
        "power_pom_5v_in_w": 2.545, "power_pom_5v_gpu_w": 0, "power_pom_5v_cpu_w": 0.549, "power_w": 2.545,
    }),
    "no such line": ("tegrastats: cannot open /dev/nvmap", {}),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES.values(), ids=LINES.keys())
def test_a_line_of_tegrastats(line, expected):
    assert parse_line(line) == pytest.approx(expected)


@pytest.fixture
def tegrastats(tmp_path, monkeypatch):
    """tegrastats(script) -> the program is first in PATH; it writes its arguments and its pid to files."""

    def install(script):
        path = tmp_path / "bin" / "tegrastats"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho $$ > {tmp_path}/pid\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_tegrastats_runs_as_long_as_it_is_read(tegrastats, tmp_path):
    tegrastats(f"echo '{NANO_R32}'; echo garbage; printf '%s' '{ORIN_NANO_R36[:60]}'; exec sleep 600")
    source = TegrastatsReadings(0.25)
    assert until(source.read) == [pytest.approx(LINES["r32"][1])]  # the unfinished line and garbage are no readings
    assert source.read() == []
    assert (tmp_path / "arguments").read_text() == "--interval 250\n"
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_tegrastats_that_ends_gives_no_reading(tegrastats, monkeypatch):
    tegrastats("echo 'must be root' >&2; exit 1")
    monkeypatch.setattr(device_monitor, "SOURCES", {"tegrastats": TegrastatsReadings})
    with DeviceMonitor(0.01) as monitor:
        pass
    report = monitor.report()
    assert report["tegrastats"] is None
    assert report["not_present"] == {"tegrastats": "it gave no reading"}
