"""What CMake decides about the TensorRT plugins, and what it says: nothing here compiles a kernel."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import ROOT, find_nvcc

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="no cmake or no C++ compiler here"
)
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc here")

MODULES = ROOT / "trt_plugins" / "tensorrt"


def configure(build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Fetches nothing, and leaves the CPU ops out."""
    fixed = ("-DMASK2EDGE_FETCH_HEADERS=OFF", "-DMASK2EDGE_ONNXRUNTIME=OFF")
    command = ["cmake", "-S", str(ROOT), "-B", str(build), *fixed, *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def said(result: subprocess.CompletedProcess[str]) -> str:
    return " ".join((result.stdout + result.stderr).split())  # CMake wraps its errors


def script(tmp_path: Path, text: str) -> list[str]:
    """What a CMake script says, line by line, under the policies of CMakeLists.txt: before CMake 4, a script that asks
    for none has IN_LIST as no operator."""
    file = tmp_path / "script.cmake"
    file.write_text(f"cmake_minimum_required(VERSION 3.22)\n{text}")
    result = subprocess.run(["cmake", "-P", str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()  # message() without a level


def headers(folder: Path, version: str) -> Path:
    """A folder that looks like TensorRT's headers."""
    folder.mkdir()
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(version)
    return folder


def test_plugins_are_left_out_where_no_device_is(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DMASK2EDGE_DEVICE_FILES=")
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if "TensorRT" in line]
    why = "no NVIDIA device here (MASK2EDGE_TENSORRT=ON builds them all the same)"
    assert line == f"-- mask2edge: TensorRT plugins left out: {why}"


def test_plugins_are_left_out_on_a_device_without_headers(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DMASK2EDGE_DEVICE_FILES=/dev/null", f"-DTENSORRT_INCLUDE_DIR={tmp_path}")
    assert result.returncode == 0, result.stderr
    why = "no NvInferRuntime.h under TENSORRT_INCLUDE_DIR" if find_nvcc() else "no nvcc"
    assert f"TensorRT plugins left out: {why}" in said(result)


@needs_nvcc
def test_plugins_on_a_device_are_for_that_device(tmp_path: Path) -> None:
    folder = headers(tmp_path / "include", "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3\n")
    options = ("-DMASK2EDGE_DEVICE_FILES=/dev/null", f"-DTENSORRT_INCLUDE_DIR={folder}")
    result = configure(tmp_path / "build", *options)
    assert result.returncode == 0, result.stderr
    assert "this machine's GPU alone; headers of TensorRT 10.3 from TENSORRT_INCLUDE_DIR)" in said(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-DTENSORRT_INCLUDE_DIR=/nowhere"],
            "no NvInferRuntime.h under TENSORRT_INCLUDE_DIR = /nowhere" if find_nvcc() else "no nvcc: install the CUDA",
        ),
        (["-DMASK2EDGE_TENSORRT=YES"], "MASK2EDGE_TENSORRT must be AUTO, ON or OFF, got YES"),
        (["-DCMAKE_CXX_COMPILER="], "MASK2EDGE_TENSORRT=ON, but there is no C++ compiler"),
    ],
)
def test_plugins_that_were_asked_for_are_not_left_out(tmp_path: Path, options: list[str], message: str) -> None:
    no_compiler = {"CXX": str(tmp_path / "none")} if "-DCMAKE_CXX_COMPILER=" in options else {}
    result = configure(tmp_path / "build", "-DMASK2EDGE_TENSORRT=ON", *options, **no_compiler)
    assert result.returncode != 0
    assert message in said(result)


@needs_nvcc
def test_an_nvcc_that_does_not_work_is_named(tmp_path: Path) -> None:
    folder = headers(tmp_path / "include", "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3\n")
    options = ("-DMASK2EDGE_TENSORRT=ON", f"-DTENSORRT_INCLUDE_DIR={folder}", "-DCMAKE_CUDA_ARCHITECTURES=87")
    result = configure(tmp_path / "build", *options, CUDACXX=shutil.which("false") or "/bin/false")
    assert result.returncode != 0
    assert "MASK2EDGE_TENSORRT=ON, but nvcc cannot compile a first program here" in said(result)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("#define NV_TENSORRT_MAJOR 10 //!< TensorRT major version.\n#define NV_TENSORRT_MINOR 3 //!<\n", "10.3"),
        (
            "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 14\n"
            "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n",
            "10.14",
        ),
        ("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n", "expected TensorRT 10 or newer, got headers of"),
        ("", "expected TensorRT 10 or newer, got headers of"),
    ],
)
def test_plugin_headers_have_a_version(tmp_path: Path, version: str, expected: str) -> None:
    folder = headers(tmp_path / "include", version)
    text = (
        f'include("{MODULES}/headers.cmake")\nset(TENSORRT_INCLUDE_DIR "{folder}")\n'
        'find_tensorrt_headers(directory version how)\nmessage("${directory}|${version} ${how}")\n'
    )
    [line] = script(tmp_path, text)
    assert expected in line
    assert line.startswith(str(folder) if "expected" not in expected else "|")


@pytest.mark.parametrize(
    ("known", "expected"),
    [  # as nvcc --list-gpu-code has them
        ("50 52 53 60 61 62 70 72 75 80 86 87 89 90 90a", "75 80 86 87 89 90"),  # CUDA 12.6
        ("75 80 86 87 88 89 90 100 110 103 120 121", "75 80 86 87 88 89 90 100 103 110 120 121"),  # CUDA 13.0
    ],
)
def test_plugin_architectures_are_those_of_the_toolkit(tmp_path: Path, known: str, expected: str) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'sm_%s\\n' " + known + "\n")
    nvcc.chmod(0o755)
    text = (
        f'include("{MODULES}/architectures.cmake")\nset(ENV{{CUDAARCHS}} "")\n'
        f'choose_cuda_architectures("{nvcc}" FALSE architectures options words)\n'
        'message("${architectures}")\nmessage("${options}")\nmessage("${words}")\n'
        f'choose_cuda_architectures("{nvcc}" TRUE architectures options words)\n'
        'message("${architectures} ${options}")\n'
        "set(CMAKE_CUDA_ARCHITECTURES 87)\n"
        f'choose_cuda_architectures("{nvcc}" TRUE architectures options words)\n'
        'message("${architectures}${options}")\n'
    )
    newest = expected.split()[-1]
    assert script(tmp_path, text) == [
        ";".join(f"{number}-real" for number in expected.split()) + f";{newest}-virtual",
        "",
        f"architectures {expected}",
        "OFF -arch=native",
        "87",
    ]
