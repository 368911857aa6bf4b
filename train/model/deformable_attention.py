"""Multi-scale deformable attention (Deformable DETR, eq. 3): each query reads a few points of each feature map.

    output = MultiscaleDeformableAttention(256, levels=3, num_heads=8, num_points=4)(query, reference, source, shapes)

`multiscale_deformable_attention` is the operator of the deployed graphs in plain PyTorch: what the CPU op and the
TensorRT plugin are measured against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.float32_islands import at_least_float32
from mask2edge.train.model.native_sampling import applies, native_deformable_attention


def multiscale_deformable_attention(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    num_heads: int,
    num_points: int,
) -> Tensor:
    """The sampling core, from the raw outputs of the linear layers.

    value             [N, S, M*D], S = sum of H*W over the levels
    offsets           [N, Lq, M*L*P*2] in pixels of each level; order head, level, point, (x, y)
    logits            [N, Lq, M*L*P], softmax over L*P is taken here
    reference_points  [1 or N, Lq, 2], (x, y) in [0, 1]
    spatial_shapes    (H, W) of each level
    Returns [N, Lq, M*D]. Points outside a map read zero; coordinates are those of align_corners=False.
    """
    batch, queries = offsets.shape[:2]
    levels = len(spatial_shapes)
    head_dim = value.shape[2] // num_heads
    offsets = offsets.reshape(batch, queries, num_heads, levels, num_points, 2)
    weights = logits.reshape(batch, queries, num_heads, levels * num_points).softmax(-1)  # [N, Lq, M, L*P]
    # grid_sample wants one image per head: [N*M, Lq, 1, L*P] weights over [N*M, D, Lq, L*P] samples.
    weights = weights.transpose(1, 2).reshape(batch * num_heads, 1, queries, levels * num_points)
    centre = 2 * reference_points[:, :, None, None, :] - 1  # [1 or N, Lq, 1, 1, 2], in grid_sample's [-1, 1]
    samples = []
    for level, (part, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in spatial_shapes], dim=1), spatial_shapes, strict=True)
    ):
        image = part.transpose(1, 2).reshape(batch * num_heads, head_dim, height, width)
        size = torch.tensor([width, height], dtype=offsets.dtype, device=offsets.device)
        grid = centre + 2 * offsets[:, :, :, level] / size  # [N, Lq, M, P, 2]
        grid = grid.transpose(1, 2).reshape(batch * num_heads, queries, num_points, 2)
        samples.append(F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False))  # [N*M, D, Lq, P]
    output = (torch.cat(samples, dim=3) * weights).sum(3)  # [N*M, D, Lq]
    return output.reshape(batch, num_heads * head_dim, queries).transpose(1, 2)


class MultiscaleDeformableAttention(nn.Module):
    """Linear layers around the sampling core (ms_deform_attn.py of the reference)."""

    def __init__(self, dim: int, levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_points, self.levels = num_heads, num_points, levels
        self.sampling_offsets = nn.Linear(dim, num_heads * levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * levels * num_points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in evenly spread directions, point p at p + 1 pixels; all points weigh the same."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)  # [M]
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # [M, 2]
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)  # [P]
        bias = direction[:, None, None, :] * distance[None, None, :, None]  # [M, 1, P, 2]
        bias = bias.expand(self.num_heads, self.levels, self.num_points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, source: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """query [N, Lq, C] (positions added), reference_points [1 or N, Lq, 2], source [N, S, C] -> [N, Lq, C]."""
        value = self.value_projection(source)  # [N, S, C]
        tensors = (
            at_least_float32(value),
            at_least_float32(self.sampling_offsets(query)),  # [N, Lq, M*L*P*2]
            at_least_float32(self.attention_weights(query)),  # [N, Lq, M*L*P]
            reference_points,
        )
        sample = native_deformable_attention if applies(*tensors) else multiscale_deformable_attention
        output = sample(*tensors, spatial_shapes, self.num_heads, self.num_points)  # [N, Lq, C]
        return self.output_projection(output.to(value.dtype))
