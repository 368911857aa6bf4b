"""The CPU kernels as a Jetson or a Raspberry Pi runs them: cross-compiled, and executed by an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR, "cmake") if shutil.which(tool) is None]


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; apt install g++-aarch64-linux-gnu qemu-user"
)
def test_kernels_on_neon(tmp_path: Path) -> None:
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DMASK2EDGE_BUILD_TESTS=ON", "-DMASK2EDGE_TENSORRT=OFF",
        "-DMASK2EDGE_ONNXRUNTIME=OFF", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}", f"-DCMAKE_CROSSCOMPILING_EMULATOR={EMULATOR}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    ]  # fmt: skip
    steps = [
        configure,
        ["cmake", "--build", str(tmp_path), "--target", "kernel_tests", "image_tests", "--parallel", "2"],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "-R", "^(kernels|images)$"],
    ]
    said = ""
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True)
        said = result.stdout + result.stderr
        assert result.returncode == 0, said
    assert "100% tests passed" in said
    assert "out of 2" in said
