"""Builds tests/native with the sanitizers and runs it; and CMake's way where there are no headers or no compiler."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed: pip install cmake ninja")


def configure(build: Path, *options: str, **environment: str) -> str:
    """CMake's output; fetches nothing."""
    command = ["cmake", "-S", str(ROOT), "-B", str(build), "-DMASK2EDGE_FETCH_HEADERS=OFF", *options]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_kernels_under_the_sanitizers(tmp_path: Path) -> None:
    configure(tmp_path, "-DMASK2EDGE_BUILD_TESTS=ON")
    build = ["cmake", "--build", str(tmp_path), "--target", "kernel_tests", "--parallel", "2"]
    result = subprocess.run(build, capture_output=True, text=True)
    if "cannot find -lasan" in result.stderr or "cannot find -lubsan" in result.stderr:
        pytest.skip("the compiler comes without its sanitizer libraries")
    assert result.returncode == 0, result.stdout + result.stderr
    result = subprocess.run(
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "-R", "^kernels$"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_without_headers_cmake_succeeds_and_says_so(tmp_path: Path) -> None:
    said = configure(tmp_path / "build", f"-DONNXRUNTIME_INCLUDE_DIR={tmp_path}")
    assert "CPU ops left out: no onnxruntime_c_api.h under ONNXRUNTIME_INCLUDE_DIR" in said
    assert "CPU ops for ONNX Runtime" not in said


def test_without_a_compiler_cmake_succeeds_and_says_so(tmp_path: Path) -> None:
    said = configure(tmp_path / "build", "-DCMAKE_CXX_COMPILER=", CXX=str(tmp_path / "no-such-compiler"))
    assert "CPU ops left out: no C++ compiler" in said
