"""Builds the TensorRT plugin library for the tests that load it: once a checkout, whoever of the workers asks first.

    try:
        library = build_plugins().library
    except Unavailable as reason:        # no nvcc, no headers: a skip, in one line
        pytest.skip(str(reason))

One architecture, Orin's, because nothing here is executed on a GPU and all of them take minutes. The build folder is
kept under build/, so that a later run compiles only what has changed.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "tests-tensorrt"
ARCHITECTURE = "87"


class Unavailable(Exception):
    """This machine cannot compile the plugins. Says what it lacks, in one line."""


@dataclass(frozen=True)
class PluginBuild:
    library: Path
    executed: Path  # the same plugins over kernels that tests/native/simt executes on the host
    contract_tests: Path  # tests/native/plugin_tests.cpp: takes both


def find_nvcc() -> str | None:
    """Where trt_plugins/tensorrt/library.cmake finds it: CMake looks in the system's folders whatever the PATH is."""
    folders = (os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/usr/lib/cuda/bin", "/usr/local/bin", "/usr/bin")
    return shutil.which("nvcc", path=os.pathsep.join(folders))


@functools.cache
def build_plugins() -> PluginBuild:
    """The library, up to date with its sources. Raises Unavailable; AssertionError with what a failed build said."""
    for tool, what in (("cmake", "cmake"), ("c++", "C++ compiler")):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {what} here: GPU code was not compiled")
    nvcc = find_nvcc()
    if nvcc is None:
        raise Unavailable("no nvcc here: GPU code was not compiled")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:  # the workers of one run
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = _configure(nvcc)
        if "no TensorRT headers" in said:
            raise Unavailable("no TensorRT headers here or from a package registry: GPU code was not compiled")
        _build("plugin_tests")  # and with it the libraries
    return PluginBuild(
        FOLDER / "libmask2edge_tensorrt.so", FOLDER / "libmask2edge_plugins_executed.so", FOLDER / "plugin_tests"
    )


def _configure(nvcc: str) -> str:
    options = {
        "MASK2EDGE_TENSORRT": "ON",
        "MASK2EDGE_ONNXRUNTIME": "OFF",
        "MASK2EDGE_BUILD_TESTS": "ON",
        "CMAKE_CUDA_ARCHITECTURES": ARCHITECTURE,
    }
    command = ["cmake", "-S", str(ROOT), "-B", str(FOLDER), *(f"-D{name}={value}" for name, value in options.items())]
    environment = os.environ | {"PYTHON": sys.executable, "CUDACXX": nvcc}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = result.stdout + result.stderr
    assert result.returncode == 0 or "no TensorRT headers" in said, said
    return said


def _build(*targets: str) -> None:
    jobs = [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel", "2"]
    command = ["cmake", "--build", str(FOLDER), "--target", *targets, *jobs]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
