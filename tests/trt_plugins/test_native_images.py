"""Builds pre- and post-processing on the CPU with the sanitizers and runs their native tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow  # compiling three instruction sets with the sanitizers takes a minute
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed: pip install cmake ninja")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_images_under_the_sanitizers(tmp_path: Path) -> None:
    options = ["-DMASK2EDGE_FETCH_HEADERS=OFF", "-DMASK2EDGE_TENSORRT=OFF", "-DMASK2EDGE_BUILD_TESTS=ON"]
    configured = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path), *options], capture_output=True, text=True
    )
    assert configured.returncode == 0, configured.stdout + configured.stderr
    assert "pre- and post-processing on the CPU (" in configured.stdout
    build = ["cmake", "--build", str(tmp_path), "--target", "image_tests", "--parallel", "2"]
    built = subprocess.run(build, capture_output=True, text=True)
    if "cannot find -lasan" in built.stderr or "cannot find -lubsan" in built.stderr:
        pytest.skip("the compiler comes without its sanitizer libraries")
    assert built.returncode == 0, built.stdout + built.stderr
    result = subprocess.run(
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "-R", "^images$"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
