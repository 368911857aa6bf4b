"""What stays in float32 when a step runs in half precision: where rounding moves a sample, or a sum overflows.

    logits = mask_logits(mask_embed, mask_features)    # float32 under autocast, too

Nothing here changes a float32 or float64 network, nor its exported graph. The criterion and the matcher leave autocast
by themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; other tensors as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for a type of half its width; other types as they are."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def mask_logits(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    """mask_embed [N, Q, C], mask_features [N, C, H, W] -> [N, Q, H, W]. A sum over C of products overflows float16."""
    device = mask_embed.device.type
    if not torch.is_autocast_enabled(device):
        return torch.einsum("nqc,nchw->nqhw", mask_embed, mask_features)
    with torch.autocast(device, enabled=False):
        return torch.einsum("nqc,nchw->nqhw", mask_embed.float(), mask_features.float())
