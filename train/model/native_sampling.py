"""The sampling core of deformable attention in C++, with its gradient: several times as fast as grid_sample on a CPU.

    if applies(value, offsets, logits, reference_points):
        output = native_deformable_attention(value, offsets, logits, reference_points, shapes, num_heads, num_points)

It keeps the inputs for the gradient and nothing else: PyTorch's formulation keeps the samples of all points. Results do
not depend on the number of threads. trt_plugins/multiscale_deformable_attention/README.md says what is computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mask2edge.train.native_library import find

ERROR_LENGTH = 512  # bytes of the line that says what is wrong


def applies(value: Tensor, offsets: Tensor, logits: Tensor, reference_points: Tensor) -> bool:
    """Whether these tensors train (a gradient is wanted, but not for the reference points) in float32 on the CPU, and
    the library is there. What is exported, traced or merely evaluated is PyTorch's formulation."""
    tensors = (value, offsets, logits, reference_points)
    return (
        torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors[:3])
        and not reference_points.requires_grad
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and find() is not None
    )


def native_deformable_attention(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    num_heads: int,
    num_points: int,
    instruction_set: int = -1,
) -> Tensor:
    """As `multiscale_deformable_attention`, where `applies` is true. Raises ValueError for sizes that do not fit.

    instruction_set: a place among those of the library, or -1 for the best.
    """
    return _Sampling.apply(
        value, offsets, logits, reference_points, tuple(spatial_shapes), num_heads, num_points, instruction_set
    )


class _Sizes(ctypes.Structure):
    """DeformableAttentionSizes of trt_plugins/training/c_api.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("batch", "value_rows", "channels", "queries", "reference_batch", "heads", "levels", "points")
    ]


class _Sampling(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        offsets: Tensor,
        logits: Tensor,
        reference_points: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        num_heads: int,
        num_points: int,
        instruction_set: int,
    ) -> Tensor:
        tensors = [tensor.contiguous() for tensor in (value, offsets, logits, reference_points)]
        levels = len(spatial_shapes)
        batch, queries = offsets.shape[:2]
        samples = num_heads * levels * num_points
        if offsets.shape[2] != 2 * samples or logits.shape != (batch, queries, samples) or value.shape[0] != batch:
            raise ValueError(
                f"expected offsets [N, Lq, {2 * samples}], logits [N, Lq, {samples}] and value [N, S, C], got "
                f"{list(offsets.shape)}, {list(logits.shape)} and {list(value.shape)}"
            )
        ctx.sizes = _Sizes(
            batch, value.shape[1], value.shape[2], queries, len(reference_points), num_heads, levels, num_points
        )
        ctx.shapes = (ctypes.c_int32 * (2 * levels))(*(length for shape in spatial_shapes for length in shape))
        ctx.instruction_set = instruction_set
        output = torch.empty(batch, queries, value.shape[2])  # [N, Lq, C]
        _call("mask2edge_deformable_attention", ctx, *tensors, output)
        ctx.save_for_backward(*tensors)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in tensors[:3]]
        _call("mask2edge_deformable_attention_gradient", ctx, *tensors, grad_output.contiguous(), *gradients)
        return (*gradients, None, None, None, None, None)


def _call(function: str, ctx: Any, *tensors: Tensor) -> None:
    """Runs it on as many threads as PyTorch's own operators."""
    text = ctypes.create_string_buffer(ERROR_LENGTH)
    addresses = [tensor.data_ptr() for tensor in tensors]
    failed = getattr(find(), function)(
        ctypes.addressof(ctx.sizes),
        ctypes.addressof(ctx.shapes),
        *addresses,
        torch.get_num_threads(),
        ctx.instruction_set,
        text,
        ERROR_LENGTH,
    )
    if failed:
        raise ValueError(text.value.decode())
