"""Where a pixel of a feature map is, as a vector: sine position embeddings and place codes.

    position = sine_position(16, 16, 256)   # [1, 256, 16, 16]
    code = place_code(16, 16, 256)          # [1, 256, 16, 16]

Both are normalised to the map's size. Sine positions: DETR, sec. A.4; position_encoding.py of the reference. Their
fastest wave turns once over the map. Those of place codes turn up to 16 times, so that neighbours differ: the Fourier
features of Tancik et al. (NeurIPS 2020), with frequencies in a geometric row and averaged over each pixel, so that a
coarse map has none that it could not show.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mask2edge.train.model.float32_islands import wide_dtype

TEMPERATURE = 10000.0
LEAST_TURNS, MOST_TURNS = 0.5, 16.0  # of a place code's waves over the whole map


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


def place_code(
    height: int, width: int, dim: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A quarter of the channels each: sines and cosines of y, sines and cosines of x.

    Returns [1, dim, height, width]. `dim` must be a multiple of 4.
    """
    half, quarter = dim // 2, dim // 4
    wide = wide_dtype(dtype)
    steps = torch.arange(quarter, device=device).to(wide) / max(1, quarter - 1)  # [quarter], 0 to 1
    turns = LEAST_TURNS * (MOST_TURNS / LEAST_TURNS) ** steps  # [quarter]

    def encode(length: int) -> Tensor:
        centres = (torch.arange(length, device=device).to(wide) + 0.5) / length  # [length]
        angles = 2 * math.pi * centres[:, None] * turns  # [length, quarter]
        mean = torch.sinc(turns / length)  # [quarter], a wave's mean over a pixel, as part of the wave at its centre
        return torch.cat([angles.sin() * mean, angles.cos() * mean], 1)  # [length, half]

    rows = encode(height).T[:, :, None].expand(half, height, width)  # [half, H, W]
    columns = encode(width).T[:, None, :].expand(half, height, width)  # [half, H, W]
    return torch.cat([rows, columns])[None].to(dtype)  # [1, dim, H, W]
