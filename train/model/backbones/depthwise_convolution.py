"""Depthwise convolution whose gradient is computed in C++ where a CPU trains: PyTorch's takes up to ten times as long.

output = depthwise_convolution(features, conv)     # conv(features), for a Conv2d with groups = channels
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.native_library import call, find

CHANNELS = 16  # the native gradient takes multiples of it
KERNELS = ((3, 3), (5, 5))


def depthwise_convolution(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """features [N, C, H, W] -> [N, C, H', W']."""
    if applies(features, conv):
        return _Convolution.apply(features, conv.weight, conv.stride[0], conv.padding[0])
    return conv(features)


def applies(features: Tensor, conv: nn.Conv2d) -> bool:
    """Whether this trains in float32 on the CPU, with channels side by side, and the library has its gradient."""
    return (
        torch.is_grad_enabled()
        and features.requires_grad
        and conv.weight.requires_grad
        and features.device.type == "cpu"
        and features.dtype == conv.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.in_channels % CHANNELS == 0
        and conv.kernel_size in KERNELS
        and conv.stride[0] == conv.stride[1]
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and conv.dilation == (1, 1)
        and conv.bias is None
        and features.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and find() is not None
    )


class _Sizes(ctypes.Structure):
    """DepthwiseShape of trt_plugins/depthwise_convolution/gradient_tile.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "batch", "height", "width", "channels", "out_height", "out_width", "kernel", "stride", "padding",
        )
    ]  # fmt: skip


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(features, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        features = features.contiguous(memory_format=torch.channels_last)
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
        grad_features = torch.empty_like(features)  # [N, C, H, W], channels side by side
        grad_weight = torch.empty(weight.shape)  # [C, 1, K, K]
        batch, channels, height, width = features.shape
        sizes = _Sizes(batch, height, width, channels, *grad_output.shape[2:], weight.shape[2], ctx.stride, ctx.padding)
        call(
            "mask2edge_depthwise_gradient",
            [sizes],
            [features, weight.contiguous(), grad_output, grad_features, grad_weight],
        )
        return grad_features, grad_weight, None, None
