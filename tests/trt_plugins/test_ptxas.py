"""The kernels' machine code for Orin, Hopper, Thor and Blackwell: registers, spills, 16-byte loads, tensor cores.

Needs nvcc, and cuobjdump with nvdisasm for what is read from the code itself (PyPI: nvidia-cuda-cuobjdump,
nvidia-cuda-nvdisasm). No GPU: nothing is executed. What was compiled stays under build/ until a source changes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "trt_plugins"
CACHE = ROOT / "build" / "tests-ptxas"
ARCHITECTURES = (87, 90, 110, 120)

SAMPLING, ATTENTION = "multiscale_deformable_attention", "masked_attention"
OPS = (SAMPLING, ATTENTION, "segment_fusion", "preprocess")
REGISTERS = {
    SAMPLING: 64,
    ATTENTION: 168,
}  # of a thread, in each kernel of the op; for the others what the block allows


@dataclass(frozen=True)
class Kernel:
    name: str  # mangled
    registers: int
    spilled: int  # bytes stored and loaded
    stack: int  # bytes


def find_nvcc() -> str:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here: GPU code was not compiled")
    return nvcc


def find_cuobjdump() -> str:
    """On PATH, or in one of the packages that PyPI has; nvdisasm lies beside it there."""
    found = shutil.which("cuobjdump")
    if found is not None and shutil.which("nvdisasm") is not None:
        return found
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package is not None else ():
        for candidate in sorted(Path(folder).glob("*/bin/cuobjdump")):
            if (candidate.parent / "nvdisasm").is_file():
                return str(candidate)
    pytest.skip("no cuobjdump with nvdisasm here: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def included(path: Path) -> set[Path]:
    """The file and all of ours that it includes."""
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():  # simt/simt.h is not for nvcc
            continue
        found.add(path)
        waiting += [SOURCES / name for name in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)]
    return found


@functools.cache
def compiled(op: str, architecture: int) -> tuple[Path, str]:
    """The device code of the op's launch.cu, and what ptxas said about it."""
    nvcc, source = find_nvcc(), SOURCES / op / "launch.cu"
    assert source.is_file(), f"expected a {source.relative_to(ROOT)}"
    options = [f"-arch=sm_{architecture}", "-std=c++17", "-O3", "-Xptxas", "-v", "-cubin"]
    digest = hashlib.sha256(subprocess.run([nvcc, "--version"], capture_output=True, check=True).stdout)
    digest.update(" ".join(options).encode())
    for path in sorted(included(source)):
        digest.update(path.read_bytes())
    CACHE.mkdir(parents=True, exist_ok=True)
    name = f"{op}.sm_{architecture}"
    code, said = (CACHE / f"{name}.{digest.hexdigest()[:16]}.{suffix}" for suffix in ("cubin", "txt"))
    with (CACHE / f"{name}.lock").open("w") as lock:  # the workers of one run
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.is_file():
            for old in CACHE.glob(f"{name}.*.*"):
                old.unlink()
            command = [nvcc, *options, f"-I{SOURCES}", str(source), "-o", str(code)]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
            said.write_text(result.stdout + result.stderr)
    return code, said.read_text()


def kernels(op: str, architecture: int) -> list[Kernel]:
    """ptxas names a function, then its stack and spills, then its registers."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for 'sm_\d+\w?'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stored>\d+) bytes spill stores, (?P<loaded>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    said = compiled(op, architecture)[1]
    found = [
        Kernel(m["name"], int(m["registers"]), int(m["stored"]) + int(m["loaded"]), int(m["stack"]))
        for m in pattern.finditer(said)
    ]
    assert len(found) == said.count("Compiling entry function") > 0, said
    return found


def instructions(op: str, architecture: int) -> dict[str, str]:
    """SASS by kernel."""
    cuobjdump = find_cuobjdump()
    environment = os.environ | {"PATH": f"{Path(cuobjdump).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [cuobjdump, "-sass", str(compiled(op, architecture)[0])]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    parts = re.split(r"^\s*Function : (\w+)\s*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", OPS)
def test_ptxas_spills_nothing(op: str, architecture: int) -> None:
    assert [kernel for kernel in kernels(op, architecture) if kernel.spilled] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", REGISTERS)
def test_ptxas_register_ceiling(op: str, architecture: int) -> None:
    assert [kernel for kernel in kernels(op, architecture) if kernel.registers > REGISTERS[op]] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ptxas_sampling_reads_values_16_bytes_at_once(architecture: int) -> None:
    code = instructions(SAMPLING, architecture)
    assert len(code) == 5  # float32; float16 and bfloat16, each sampled by its own type and by float32
    for name, text in code.items():
        assert len(re.findall(r"\bLDG\.E\.128\b", text)) >= 4, name  # the four corners of a point


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ptxas_attention_uses_tensor_cores(architecture: int) -> None:
    code = instructions(ATTENTION, architecture)
    with_tensor_cores = {name for name, text in code.items() if re.search(r"\bHMMA\.16816\.F32\b", text)}
    of_type = {kind: {n for n in code if "attend" in n and kind in n} for kind in ("6__half", "13__nv_bfloat16")}
    for kind, names in of_type.items():
        assert names, f"no attention kernel for {kind}"
        assert names <= with_tensor_cores, f"{kind}: no tensor cores in {sorted(names - with_tensor_cores)}"
