"""The CUDA kernels without a GPU: tests/native executes them thread by thread (tests/native/simt), and this runs it.

Under AddressSanitizer and UBSan, every kernel × type × shape × order of threads against float64 (ctest); then, through
libmask2edge_simt.so, against PyTorch: in float32 at most 1e-5 off; in float16 and bfloat16 at most twice as far from
float64 as PyTorch itself is when it calculates in that type.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from simt_build import Unavailable, build_simt, run, simt_library
from torch import Tensor

from mask2edge.benchmarks.kernel_cases import SMALL, TIMED, DeformableCase, MaskedCase
from mask2edge.train.model.deformable_attention import multiscale_deformable_attention
from mask2edge.train.model.masked_attention import masked_attention

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # DataType of trt_plugins/common/data_type.h
# order, seed, lazy copies (tests/native/simt/library.cpp)
SCHEDULES = {"forward": (0, 0, 0), "reverse-lazy": (1, 0, 1), "shuffled": (2, 5, 0)}
TYPE_PAIRS = [
    (torch.float32, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
]


def built(build: Callable[[], Path]) -> Path:
    try:
        return build()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_kernels_under_the_sanitizers() -> None:
    folder = built(lambda: build_simt("simt_tests", sanitize=True))
    run("ctest", "--test-dir", str(folder), "--output-on-failure")


def test_kernels_without_their_barriers_are_caught() -> None:
    mutants = [f"simt_mutant_{name}" for name in ("as_it_is", "without_block_barriers", "without_warp_barriers")]
    folder = built(lambda: build_simt(*mutants))
    said = run("ctest", "--test-dir", str(folder), "--output-on-failure", "-R", "simt_mutant")
    assert said.count("Passed") == 3, said


@pytest.mark.slow
def test_kernels_on_many_random_shapes() -> None:
    folder = built(lambda: build_simt("simt_tests"))
    run("ctest", "--test-dir", str(folder), "--output-on-failure")
    run(str(folder / "simt_deformable_attention"), "2000", "1", "--large")
    run(str(folder / "simt_masked_attention"), "200", "1")


# ---- Against PyTorch ------------------------------------------------------------------------------------------------
class Library:
    """Host tensors in, the kernel's output out."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.mask2edge_simt_configure.argtypes = [ctypes.c_int32, ctypes.c_uint64, ctypes.c_int32]
        self._library.mask2edge_simt_last_report.restype = ctypes.c_char_p
        self._library.mask2edge_masked_attention_workspace.restype = ctypes.c_int64

    def configure(self, order: int, seed: int, lazy_copies: int) -> None:
        self._library.mask2edge_simt_configure(order, seed, lazy_copies)

    def deformable(self, case: DeformableCase, inputs: dict[str, Tensor]) -> Tensor:
        value, offsets = inputs["value"], inputs["offsets"]
        batch, queries = offsets.shape[:2]
        shared = inputs["reference_points"].shape[0] == 1
        sizes = (batch, queries, value.shape[1], case.heads, case.head_dim, case.points, shared, len(case.shapes))
        output = torch.full((batch, queries, value.shape[2]), torch.nan, dtype=value.dtype)
        types = (TYPES[value.dtype], TYPES[offsets.dtype])
        self._call("mask2edge_deformable_attention", sizes, types, [*inputs.values(), output])
        return output

    def masked(self, case: MaskedCase, inputs: dict[str, Tensor]) -> Tensor:
        query, key = inputs["query"], inputs["key"]
        sizes = (*query.shape[:2], key.shape[1], case.heads, case.head_dim)
        bytes_ = self._library.mask2edge_masked_attention_workspace((ctypes.c_int64 * len(sizes))(*sizes))
        workspace = torch.full((bytes_,), 255, dtype=torch.uint8)
        output = torch.full(query.shape, torch.nan, dtype=query.dtype)
        tensors = [*inputs.values(), output, workspace]
        self._call("mask2edge_masked_attention", sizes, (TYPES[query.dtype],), tensors)
        return output

    def _call(self, name: str, sizes: tuple[int, ...], types: tuple[int, ...], tensors: list[Tensor]) -> None:
        pointers = [t.data_ptr() for t in tensors]
        status = getattr(self._library, name)(
            (ctypes.c_int64 * len(sizes))(*sizes), *types, (ctypes.c_void_p * len(pointers))(*pointers), None
        )
        assert status == 0, self._library.mask2edge_simt_last_report().decode()


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(built(simt_library))


def runs(kind: type) -> list[tuple[str, str]]:
    """(case, schedule): of the benchmark's table, what the kernels support; the large ones in one order."""
    head_dims = (16, 24, 32, 64) if kind is DeformableCase else (16, 32, 64)
    small = [name for name, case in SMALL.items() if isinstance(case, kind) and case.head_dim in head_dims]
    large = "deformable-512-lite" if kind is DeformableCase else "masked-1024"
    return [(name, schedule) for name in small for schedule in SCHEDULES] + [(large, "shuffled")]


def expect_close(got: Tensor, in_type: Tensor, exact: Tensor) -> None:
    """All of the same inputs: the kernel's output, PyTorch's in that type, and PyTorch's in float64."""
    assert got.shape == exact.shape
    if got.numel() == 0:
        return
    error, torchs_error = (got.double() - exact).abs(), (in_type.double() - exact).abs()
    if got.dtype == torch.float32:
        assert error.max() <= 1e-5
    else:
        torchs_error = torchs_error[in_type.isfinite()]  # far offsets overflow its float16 coordinates
        assert error.max() <= 2 * torchs_error.max()
        assert error.mean() <= 2 * torchs_error.mean()


def typed(inputs: dict[str, np.ndarray], types: dict[str, torch.dtype]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(x).to(types.get(name)).contiguous() for name, x in inputs.items()}


@pytest.mark.parametrize("types", TYPE_PAIRS, ids=lambda types: "-".join(str(t).removeprefix("torch.") for t in types))
@pytest.mark.parametrize(("name", "schedule"), runs(DeformableCase))
def test_deformable_attention_is_as_exact_as_pytorch(
    library: Library, name: str, schedule: str, types: tuple[torch.dtype, torch.dtype]
) -> None:
    case = {**SMALL, **TIMED}[name]
    assert isinstance(case, DeformableCase)
    library.configure(*SCHEDULES[schedule])
    inputs = typed(case.inputs(seed=2), {"value": types[0], "offsets": types[1], "logits": types[1]})

    def in_torch(dtype: torch.dtype) -> Tensor:
        tensors = [inputs[n].to(dtype) for n in ("value", "offsets", "logits", "reference_points")]
        return multiscale_deformable_attention(*tensors, list(case.shapes), case.heads, case.points)

    expect_close(library.deformable(case, inputs), in_torch(types[0]), in_torch(torch.float64))


@pytest.mark.parametrize("dtype", list(TYPES), ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("name", "schedule"), runs(MaskedCase))
def test_masked_attention_is_as_exact_as_pytorch(
    library: Library, name: str, schedule: str, dtype: torch.dtype
) -> None:
    case = {**SMALL, **TIMED}[name]
    assert isinstance(case, MaskedCase)
    library.configure(*SCHEDULES[schedule])
    inputs = typed(case.inputs(seed=2), dict.fromkeys(("query", "key", "value"), dtype))

    def in_torch(dtype: torch.dtype) -> Tensor:
        tensors = [inputs[n].to(dtype) for n in ("query", "key", "value")]
        return masked_attention(*tensors, inputs["mask_logits"], case.heads)

    expect_close(library.masked(case, inputs), in_torch(dtype), in_torch(torch.float64))
