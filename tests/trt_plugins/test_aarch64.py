"""The CPU kernels as a Jetson or a Raspberry Pi runs them: cross-compiled, executed by an emulator, and compared with
what this machine gives."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR, "cmake") if shutil.which(tool) is None]
KERNELS = {"multiscale_deformable_attention", "masked_attention", "add_layer_normalization", "convolution_3x3"}


def run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(folder: Path, processor: str, *targets: str, **variables: str) -> Path:
    """The folder of the tests, built as they are shipped: CMAKE_SYSTEM_NAME makes CMake leave the sanitizers out."""
    variables |= {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": processor, "MASK2EDGE_BUILD_TESTS": "ON"}
    variables |= {"MASK2EDGE_TENSORRT": "OFF", "MASK2EDGE_ONNXRUNTIME": "OFF"}
    run("cmake", "-S", ROOT, "-B", folder, *(f"-D{name}={value}" for name, value in variables.items()))
    run("cmake", "--build", folder, "--target", *targets, "--parallel", "2")
    return folder / "tests" / "native"


def read_given(file: Path) -> dict[tuple[str, str, int], np.ndarray]:
    """(kernel, instruction set, case) -> what the kernel gave, as kernel_tests.cpp writes it."""
    data, found, place = file.read_bytes(), {}, 0
    while place < len(data):
        end = data.index(b"\n", place)
        kernel, instructions, number, count = data[place:end].decode().split("\t")
        found[kernel, instructions, int(number)] = np.frombuffer(data, np.float32, int(count), end + 1)
        place = end + 1 + 4 * int(count)
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; apt install g++-aarch64-linux-gnu qemu-user"
)
def test_kernels_on_neon_give_what_they_give_here(tmp_path: Path) -> None:
    there = build(
        tmp_path / "there", "aarch64", "kernel_tests", "image_tests",
        CMAKE_CXX_COMPILER=COMPILER, CMAKE_EXE_LINKER_FLAGS="-static",
    )  # fmt: skip
    here = build(tmp_path / "here", platform.machine(), "kernel_tests")
    assert ": 0 failures" in run(EMULATOR, there / "image_tests")
    for emulator, folder in (((EMULATOR,), there), ((), here)):
        assert ": 0 failures" in run(*emulator, folder / "kernel_tests", 400, 0, folder / "given")
    ours, theirs = read_given(here / "given"), read_given(there / "given")
    assert {kernel for kernel, _, _ in theirs} > KERNELS  # and the gradients
    compared = 0
    for (kernel, instructions, number), values in ours.items():
        others = theirs[kernel, "portable", number]  # compiled for NEON
        largest = max(1.0, float(np.abs(values).max(initial=0)))
        np.testing.assert_allclose(others, values, rtol=0, atol=1e-5 * largest, err_msg=f"{kernel}, {instructions}")
        compared += values.size
    assert compared > 1_000_000
