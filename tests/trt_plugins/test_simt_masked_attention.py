"""The CUDA kernels of MaskedAttention, executed on the CPU, on masks as a model predicts them; PyTorch beside them.

    pytest tests/trt_plugins/test_simt_masked_attention.py

test_simt_kernels.py takes the benchmark's cases, tests/native/masked_attention_cuda_tests.cpp the edges; this, discs on
a map: connected keys, overlapping queries, tiles that many skip. float32 is at most 1e-5 off; half precision at most
twice as far from float64 as PyTorch is when it calculates in that type.
"""

import ctypes
from collections.abc import Callable

import pytest
import torch
from simt_build import Unavailable, simt_library
from torch import Tensor

from mask2edge.train.model.masked_attention import masked_attention

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # trt_plugins/common/data_type.h
SHUFFLED = 2

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """masked_attention of train/model, by the CUDA kernels."""
    try:
        library = ctypes.CDLL(str(simt_library()))
    except Unavailable as reason:
        pytest.skip(str(reason))
    library.mask2edge_simt_last_report.restype = ctypes.c_char_p
    library.mask2edge_masked_attention_workspace.restype = ctypes.c_int64

    def run(query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int) -> Tensor:
        (batch, queries, channels), keys = query.shape, key.shape[1]
        sizes = (ctypes.c_int64 * 5)(batch, queries, keys, num_heads, channels // num_heads)
        workspace = torch.full((library.mask2edge_masked_attention_workspace(sizes),), 255, dtype=torch.uint8)
        output = torch.full_like(query, torch.nan)
        tensors = [query, key, value, mask_logits, output, workspace]
        library.mask2edge_simt_configure(SHUFFLED, ctypes.c_uint64(3), 1)
        pointers = (ctypes.c_void_p * 6)(*(tensor.data_ptr() for tensor in tensors))
        status = library.mask2edge_masked_attention(sizes, TYPES[query.dtype], pointers, None)
        assert status == 0, library.mask2edge_simt_last_report().decode()
        return output

    return run


def discs(batch: int, queries: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Mask logits [N, Q, H*W], one disc for each query; some lie outside of the map."""
    y, x, radius = torch.rand(3, batch, queries, 1, 1, generator=generator) * 1.6 - 0.3
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    return (radius.abs() / 2 - ((rows - y) ** 2 + (columns - x) ** 2).sqrt()).flatten(2) * 20


def tokens(batch: int, count: int, channels: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, count, channels, generator=generator)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(
    ("batch", "queries", "size", "heads", "head_dim", "scale"),
    [
        (1, 100, (16, 16), 2, 32, 1.0),
        (2, 20, (23, 31), 2, 16, 1.0),
        (1, 13, (32, 40), 1, 64, 3.0),
        (1, 40, (7, 9), 3, 32, 0.3),
    ],
)
def test_error_is_at_most_twice_pytorchs(
    kernel: Kernel,
    dtype: torch.dtype,
    batch: int,
    queries: int,
    size: tuple[int, int],
    heads: int,
    head_dim: int,
    scale: float,
) -> None:
    generator = torch.Generator().manual_seed(queries)
    mask = discs(batch, queries, *size, generator)  # [N, Q, S]
    empty = (mask < 0).all(-1)
    assert empty.any()
    assert not empty.all()
    query = (tokens(batch, queries, heads * head_dim, generator) * scale).to(dtype)
    key, value = (tokens(batch, mask.shape[2], heads * head_dim, generator).to(dtype) for _ in range(2))
    exact = masked_attention(query.double(), key.double(), value.double(), mask, heads)  # [N, Q, M*D]
    error = (kernel(query, key, value, mask, heads) - exact).abs()
    if dtype == torch.float32:
        assert error.max() <= 1e-5
    else:
        pytorchs = (masked_attention(query, key, value, mask, heads) - exact).abs()
        assert error.max() <= 2 * pytorchs.max()
        assert error.mean() <= 2 * pytorchs.mean()


def test_images_and_heads_do_not_mix(kernel: Kernel) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (tokens(2, count, 64, generator) for count in (9, 300, 300))
    mask = discs(2, 9, 15, 20, generator)
    together = kernel(query, key, value, mask, 2)
    for image in range(2):
        for head in range(2):
            part = (slice(image, image + 1), slice(None), slice(head * 32, head * 32 + 32))
            one_head = [tensor[part].contiguous() for tensor in (query, key, value)]
            alone = kernel(*one_head, mask[image : image + 1].contiguous(), 1)
            torch.testing.assert_close(together[part], alone, rtol=0, atol=2e-6)
