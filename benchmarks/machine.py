"""The machine and package versions that a figure belongs to.

    python benchmarks/machine.py --json

Standard library only, so that a description costs nothing and works in every environment, a Jetson's too.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import command

PACKAGES = ("onnxruntime", "numpy", "opencv-python-headless", "torch", "onnx", "transformers", "openvino", "tensorrt")
# What decides how fast a CPU multiplies, as Linux calls it on x86-64 and on aarch64.
INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
    "amx_fp16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
MODEL_FILE = Path("/proc/device-tree/model")  # a board's own name: "NVIDIA Jetson Orin Nano Developer Kit"


def describe() -> dict[str, Any]:
    """{"machine", "cpu", "cores", "memory_gb", "os", "python", "versions": {package: version}}."""
    return {
        "machine": _board() or platform.machine(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": _os_name(),
        "python": platform.python_version(),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Of PACKAGES, those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The CPU's name as Linux gives it; the architecture where it gives none (aarch64 boards)."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def instruction_set() -> list[str]:
    """Those of INSTRUCTIONS that the CPU has, in their order; none where Linux does not say."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86-64, aarch64
            found = set(value.split())
            return [name for name in INSTRUCTIONS if name in found]
    return []


def commit() -> str:
    """The checkout's short commit, with `+` where files differ from it; "" outside of a git checkout."""
    root = Path(__file__).resolve().parent
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=9", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return text.strip()


def today() -> str:
    return datetime.date.today().isoformat()


def one_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['os']}; {versions}"


def _board() -> str:
    return _read(MODEL_FILE).strip("\0 \n")


def _memory_gb() -> float:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 1024**2, 1)
    return 0.0


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Describes this machine.", epilog="example: python benchmarks/machine.py --json"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    machine = describe()
    print(json.dumps(machine) if arguments.json else one_line(machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
