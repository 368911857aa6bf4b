"""Masks at points in C++ on a CPU, read from bytes: many times as fast as PyTorch's indexing.

if applies(masks, which, coordinates):
    values = sample_masks(masks, which, coordinates)      # float32 [M, P]
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mask2edge.train.native_library import call, find


def applies(masks: Tensor, which: Tensor, coordinates: Tensor) -> bool:
    """Whether the masks are bool or uint8, all is on the CPU, and the library is there."""
    return (
        masks.dtype in (torch.bool, torch.uint8)
        and which.dtype == torch.int64
        and coordinates.dtype == torch.float32
        and masks.device.type == which.device.type == coordinates.device.type == "cpu"
        and find() is not None
    )


def sample_masks(masks: Tensor, which: Tensor, coordinates: Tensor) -> Tensor:
    """As `point_sampling.sample_masks`, for tensors of which `applies` is true. Raises ValueError for masks that are
    not there and for coordinates of another number of masks."""
    if len(coordinates) not in (1, len(which)):
        raise ValueError(f"expected coordinates of 1 or {len(which)} masks, got {list(coordinates.shape)}")
    output = torch.empty(len(which), coordinates.shape[1])  # [M, P]
    sizes = _Sizes(*masks.shape, len(which), coordinates.shape[1], int(len(coordinates) != len(which)))
    tensors = [masks.contiguous(), which.contiguous(), coordinates.contiguous(), output]
    call("mask2edge_sample_masks", [sizes], tensors)
    return output


class _Sizes(ctypes.Structure):
    """MaskSamplingSizes of trt_plugins/point_sampling/cpu.h."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("masks", "height", "width", "chosen", "points", "shared_coordinates")
    ]
