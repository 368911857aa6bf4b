"""Builds tests/native/simt.cmake's targets: CUDA kernels compiled by the C++ compiler and executed on the CPU.

    try:
        library = simt_library()                              # libmask2edge_simt.so: the C functions on host pointers
        folder = build_simt("simt_tests", sanitize=True)      # then: ctest --test-dir folder
    except Unavailable as reason:                             # no CMake, no compiler: a skip, in one line
        pytest.skip(str(reason))

The build folders are kept under build/, so that a later run compiles only what has changed; workers of one run wait for
one another.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Unavailable(Exception):
    """This machine cannot compile the kernels. Says what it lacks, in one line."""


def build_simt(*targets: str, sanitize: bool = False) -> Path:
    """The folder, its targets up to date. Raises Unavailable; AssertionError, with the output, on a failed build."""
    for tool, what in (("cmake", "CMake"), ("c++", "C++ compiler")):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {what} here: the CUDA kernels were not executed")
    folder = ROOT / "build" / ("tests-simt-sanitized" if sanitize else "tests-simt")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        generator = ["-G", "Ninja"] if shutil.which("ninja") and not (folder / "Makefile").exists() else []
        source = ["-S", str(ROOT / "tests" / "native"), f"-DMASK2EDGE_SANITIZE={'ON' if sanitize else 'OFF'}"]
        run("cmake", *source, "-B", str(folder), *generator)
        jobs = [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel", "2"]
        try:
            run("cmake", "--build", str(folder), *jobs, "--target", *targets)
        except AssertionError as failure:
            if sanitize and ("cannot find -lasan" in str(failure) or "cannot find -lubsan" in str(failure)):
                raise Unavailable("the compiler comes without its sanitizer libraries") from failure
            raise
    return folder


def simt_library() -> Path:
    """libmask2edge_simt.so, with every kernel."""
    return build_simt("mask2edge_simt") / "libmask2edge_simt.so"


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
