"""Sine position embedding of a feature map, normalised to the map's size.

    position = sine_position(16, 16, 256)   # [1, 256, 16, 16]

DETR, sec. A.4; position_encoding.py of the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mask2edge.train.model.float32_islands import wide_dtype

TEMPERATURE = 10000.0


def sine_position(
    height: int, width: int, dim: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Half of the channels encode y, half x, each as sines and cosines in turn.

    Returns [1, dim, height, width]. `dim` must be a multiple of 4.
    """
    half = dim // 2
    wide = wide_dtype(dtype)  # an angle of half precision would be off by whole pixels
    exponents = torch.arange(half, device=device).div(2, rounding_mode="floor").to(wide) * 2 / half  # [half]
    periods = TEMPERATURE**exponents  # [half]

    def encode(length: int) -> Tensor:
        # Pixel i stands at (i + 1) / length of a full turn; the reference counts from 1 and adds 1e-6 to the length.
        angle = torch.arange(1, length + 1, device=device).to(wide) / (length + 1e-6) * (2 * math.pi)  # [length]
        angles = angle[:, None] / periods  # [length, half]
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1)  # [length, half]

    rows = encode(height).T[:, :, None].expand(half, height, width)  # [half, H, W]
    columns = encode(width).T[:, None, :].expand(half, height, width)  # [half, H, W]
    return torch.cat([rows, columns])[None].to(dtype)  # [1, dim, H, W]
