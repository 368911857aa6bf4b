"""The built plugin library: its contract with TensorRT in a C++ program, what it exports, what it needs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import PluginBuild

EXPORTS = {"getCreators", "setLoggerFinder"}  # TensorRT's; the runtime's begin with mask2edge_


def symbols(library: Path, which: str) -> dict[str, str]:
    """Dynamic symbols by name, each with nm's letter."""
    output = subprocess.run(["nm", "--dynamic", which, str(library)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1]: line.split()[-2] for line in output.splitlines()}


needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm here (binutils)")


def test_plugin_contract(plugin_build: PluginBuild) -> None:
    command = [plugin_build.contract_tests, plugin_build.library, plugin_build.executed]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all as expected" in result.stdout


@needs_nm
def test_plugin_library_exports_nothing_else(plugin_library: Path) -> None:
    exported = set(symbols(plugin_library, "--defined-only"))
    assert exported >= EXPORTS
    assert "mask2edge_op_version" in exported
    assert {name for name in exported - EXPORTS if not name.startswith("mask2edge_")} == set()


@needs_nm
def test_plugin_library_needs_neither_tensorrt_nor_cuda(plugin_library: Path) -> None:
    undefined = symbols(plugin_library, "--undefined-only")
    assert [name for name in undefined if "nvinfer" in name or name.startswith(("cuda", "cu"))] == []
    needed = subprocess.run(["readelf", "-d", str(plugin_library)], capture_output=True, text=True, check=True).stdout
    libraries = [line.partition("[")[2].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line]
    system = ("libc.", "libm.", "libstdc++.", "libgcc_s.", "libpthread.", "librt.", "libdl.", "ld-linux")
    assert [library for library in libraries if not library.startswith(system)] == []
