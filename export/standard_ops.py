"""The two operators of OPS.md as standard ONNX operators: what runs where none of our libraries does.

    graph = InferenceGraph(model, StandardOps(), size=(512, 512))

Written for the exported graph: the masks are one comparison per level, and the sampling keeps queries on the last
axis, so that every element-wise pass runs along memory. `custom_ops.CustomOps` has the same methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Operators(Protocol):
    """What an inference graph needs of an operator set; shapes as in OPS.md."""

    name: str

    def multiscale_deformable_attention(
        self,
        value: Tensor,
        offsets: Tensor,
        logits: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        num_heads: int,
        num_points: int,
    ) -> Tensor:
        """Deformable sampling from raw offsets and logits -> [N, Lq, M*D]."""

    def masked_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int
    ) -> Tensor:
        """Attention to the keys whose mask logit is >= 0 -> [N, Q, M*D]."""


class StandardOps:
    """GridSample, Softmax and MatMul (opset 16 and up)."""

    name = "standard"

    def multiscale_deformable_attention(
        self,
        value: Tensor,
        offsets: Tensor,
        logits: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        num_heads: int,
        num_points: int,
    ) -> Tensor:
        """Deformable DETR, eq. 3. value [N, S, M*D], offsets [N, Lq, M*L*P*2], logits [N, Lq, M*L*P]
        -> [N, Lq, M*D]."""
        batch, queries, channels = value.shape[0], offsets.shape[1], value.shape[2]
        head_dim, levels = channels // num_heads, len(spatial_shapes)
        areas = [height * width for height, width in spatial_shapes]

        weights = logits.reshape(batch, queries, num_heads, levels * num_points)  # [N, Lq, M, L*P]
        weights = weights.softmax(-1).permute(0, 2, 3, 1)  # [N, M, L*P, Lq]
        weights = weights.reshape(batch * num_heads, 1, levels * num_points, queries)  # [N*M, 1, L*P, Lq]
        # grid_sample counts from -1 to 1 across the image; points come before queries.
        centers = (2 * reference_points - 1)[:, None, None]  # [1 or N, 1, 1, Lq, 2]
        offsets = offsets.reshape(batch, queries, num_heads, levels, num_points, 2)  # [N, Lq, M, L, P, 2]
        offsets = offsets.permute(3, 0, 2, 4, 1, 5)  # [L, N, M, P, Lq, 2]
        values = value.transpose(1, 2).split(areas, dim=2)  # L x [N, M*D, HW]

        total = None
        for level, (height, width) in enumerate(spatial_shapes):
            scale = _reciprocals(2, width, height, value)  # [2]
            grid = centers + offsets[level] * scale  # [N, M, P, Lq, 2]
            sampled = F.grid_sample(
                values[level].reshape(batch * num_heads, head_dim, height, width),  # [N*M, D, H, W]
                grid.reshape(batch * num_heads, num_points, queries, 2),  # [N*M, P, Lq, 2]
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )  # [N*M, D, P, Lq]
            part = (sampled * weights[:, :, level * num_points : (level + 1) * num_points]).sum(2)  # [N*M, D, Lq]
            total = part if total is None else total + part
        assert total is not None
        return total.reshape(batch, channels, queries).transpose(1, 2)  # [N, Lq, M*D]

    def masked_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor, num_heads: int
    ) -> Tensor:
        """Mask2Former, sec. 3.2. query [N, Q, M*D], key and value [N, S, M*D], mask_logits [N, Q, S] -> [N, Q, M*D]."""
        batch, queries, channels = query.shape
        head_dim = channels // num_heads

        def heads(x: Tensor) -> Tensor:
            return x.reshape(batch, -1, num_heads, head_dim).transpose(1, 2)  # [N, M, Q or S, D]

        # Scaling the queries is S/D times cheaper than scaling the scores.
        scores = heads(query * head_dim**-0.5) @ heads(key).transpose(2, 3)  # [N, M, Q, S]
        # One comparison does threshold and guard: where no logit reaches 0, the threshold drops below them all.
        highest = mask_logits.amax(-1, keepdim=True)  # [N, Q, 1]
        threshold = torch.zeros_like(highest).masked_fill(highest < 0, torch.finfo(mask_logits.dtype).min)  # [N, Q, 1]
        blocked = (mask_logits < threshold)[:, None]  # [N, 1, Q, S], the same for all heads
        scores = scores.masked_fill(blocked, torch.finfo(scores.dtype).min)  # [N, M, Q, S]
        attended = scores.softmax(-1) @ heads(value)  # [N, M, Q, D]
        return attended.transpose(1, 2).reshape(batch, queries, channels)  # [N, Q, M*D]


def _reciprocals(numerator: float, width: int, height: int, like: Tensor) -> Tensor:
    """(numerator / width, numerator / height) as a tensor [2]; the sizes are symbolic in a dynamic export."""
    sizes = torch.stack([torch.scalar_tensor(n, dtype=like.dtype, device=like.device) for n in (width, height)])  # [2]
    return numerator / sizes  # [2]
