"""Pixel decoder: deformable encoder on strides 32, 16, 8 and an FPN step to stride 4.

    mask_features, levels = PixelDecoder((256, 512, 1024, 2048))(backbone(pixels))

Mask2Former, sec. 3.3; msdeformattn.py of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.deformable_attention import MultiscaleDeformableAttention
from mask2edge.train.model.float32_islands import wide_dtype
from mask2edge.train.model.position import place_code, sine_position

GROUPS = 32
STRIDES = (32, 16, 8)  # of the levels, in the order of tokens and layers
NUM_LEVELS = len(STRIDES)


class ConvNorm(nn.Module):
    """Convolution without bias, then GroupNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, outputs)
        nn.init.kaiming_uniform_(self.conv.weight, a=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.conv(features))


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with a residual and then a norm."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.self_attention = MultiscaleDeformableAttention(dim, NUM_LEVELS, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, source: Tensor, position: Tensor, reference_points: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """source [N, S, C], position [1, S, C], reference_points [1, S, 2] -> [N, S, C]."""
        attended = self.self_attention(source + position, reference_points, source, spatial_shapes)
        source = self.norm1(source + attended)
        return self.norm2(source + self.linear2(F.relu(self.linear1(source))))


class PixelDecoder(nn.Module):
    """From the backbone's four maps to the three that the mask decoder reads and the mask features.

    `place_codes`: a learned projection of each pixel's place is added to what the encoder takes in and to what the mask
    features are made of.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        hidden_dim: int = 256,
        ffn_dim: int = 1024,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        place_codes: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.token_places = place_projection(hidden_dim) if place_codes else None
        self.fine_places = place_projection(hidden_dim) if place_codes else None
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, hidden_dim, 1), nn.GroupNorm(GROUPS, hidden_dim))
            for width in reversed(channels[1:])  # res5, res4, res3
        )
        for projection in self.input_projections:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(hidden_dim, ffn_dim, num_heads, num_points) for _ in range(num_layers)
        )
        self.lateral = ConvNorm(channels[0], hidden_dim, 1)
        self.output = ConvNorm(hidden_dim, hidden_dim, 3)
        self.mask_features = mask_feature_layer(hidden_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """features: res2 … res5, [N, c, H/4, W/4] … [N, c, H/32, W/32].

        Returns mask features [N, C, H/4, W/4] and the maps at strides 32, 16, 8, each [N, C, h, w].
        """
        res2, *coarse = features
        projected = [project(x) for project, x in zip(self.input_projections, reversed(coarse), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in projected]
        source = torch.cat(
            [located(x, self.token_places).flatten(2).transpose(1, 2) for x in projected], 1
        )  # [N, S, C]
        position = self.position(shapes, source)  # [1, S, C]
        reference_points = pixel_centres(shapes, source)  # [1, S, 2]
        for layer in self.layers:
            source = layer(source, position, reference_points, shapes)
        levels = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(source.split([h * w for h, w in shapes], 1), shapes, strict=True)
        ]
        fine = self.lateral(res2)  # [N, C, H/4, W/4]
        fine = fine + F.interpolate(levels[-1], fine.shape[2:], mode="bilinear", align_corners=False)
        return self.mask_features(located(F.relu(self.output(fine)), self.fine_places)), levels

    def position(self, shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """Sine position plus level embedding of every token: [1, S, C]."""
        parts = [
            sine_position(h, w, self.hidden_dim, like.device, like.dtype).flatten(2).transpose(1, 2) + embed
            for (h, w), embed in zip(shapes, self.level_embed, strict=True)
        ]
        return torch.cat(parts, 1)


def place_projection(dim: int) -> nn.Linear:
    """Of place codes. Not zeros to begin with: a place is of use only where queries and mask features both have it."""
    projection = nn.Linear(dim, dim, bias=False)
    nn.init.xavier_uniform_(projection.weight)
    return projection


def located(features: Tensor, projection: nn.Linear | None) -> Tensor:
    """features [N, C, h, w], to which each pixel's projected place code is added where there is a projection."""
    if projection is None:
        return features
    dim, height, width = features.shape[1:]
    code = place_code(height, width, dim, features.device, features.dtype)  # [1, C, h, w]
    return features + F.conv2d(code, projection.weight[:, :, None, None])


def mask_feature_layer(dim: int) -> nn.Conv2d:
    """The last layer of every pixel decoder: [N, C, H/4, W/4] -> mask features of that shape."""
    convolution = nn.Conv2d(dim, dim, 1)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def pixel_centres(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(x, y) in [0, 1] of every pixel of every level, row by row: [1, S, 2]. They serve all levels alike."""
    parts = []
    dtype = wide_dtype(like.dtype)
    for height, width in shapes:
        y = (torch.arange(height, device=like.device).to(dtype) + 0.5) / height  # [H]
        x = (torch.arange(width, device=like.device).to(dtype) + 0.5) / width  # [W]
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")  # [H, W]
        parts.append(torch.stack([grid_x.flatten(), grid_y.flatten()], -1))  # [H*W, 2]
    return torch.cat(parts)[None]
