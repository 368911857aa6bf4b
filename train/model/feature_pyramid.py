"""Pixel decoders without attention: FPN, and BiFPN whose information also flows from fine to coarse.

    mask_features, levels = FeaturePyramid((256, 512, 1024, 2048))(backbone(pixels))

FPN: Lin et al., CVPR 2017, as pixel_decoder/fpn.py of the reference has it. BiFPN: EfficientDet, sec. 3 (Tan et al.,
CVPR 2020). Both are rows of Mask2Former's table 4e. Both end in the 1×1 convolution of the deformable pixel decoder
(the reference's FPN in a 3×3), so that nothing but the pyramid differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.pixel_decoder import GROUPS, NUM_LEVELS, ConvNorm, mask_feature_layer


class FeaturePyramid(nn.Module):
    """Top down: each map is its projection plus the map above at twice the size, smoothed by a 3×3 convolution."""

    def __init__(self, channels: tuple[int, int, int, int], hidden_dim: int = 256) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.laterals = nn.ModuleList(ConvNorm(width, hidden_dim, 1) for width in reversed(finer))  # res4, res3, res2
        self.outputs = nn.ModuleList(ConvNorm(width, hidden_dim, 3) for width in (coarsest, *[hidden_dim] * len(finer)))
        self.mask_features = mask_feature_layer(hidden_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """features: res2 … res5, [N, c, H/4, W/4] … [N, c, H/32, W/32].

        Returns mask features [N, C, H/4, W/4] and the maps at strides 32, 16, 8, each [N, C, h, w].
        """
        fine, levels = self.pyramid(features)
        return self.mask_features(fine), levels

    def pyramid(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, but for the last convolution: what it takes, [N, C, H/4, W/4], and the levels."""
        *finer, coarsest = features
        first, *outputs = self.outputs
        maps = [F.relu(first(coarsest))]
        for lateral, output, x in zip(self.laterals, outputs, reversed(finer), strict=True):
            maps.append(F.relu(output(lateral(x) + doubled(maps[-1]))))
        return maps[NUM_LEVELS], maps[:NUM_LEVELS]


class BidirectionalPyramid(nn.Module):
    """Projections of the backbone's maps, then layers that fuse them top down and bottom up."""

    def __init__(self, channels: tuple[int, int, int, int], hidden_dim: int = 256, num_layers: int = 6) -> None:
        super().__init__()
        self.input_projections = nn.ModuleList(ConvNorm(width, hidden_dim, 1) for width in channels)
        self.layers = nn.ModuleList(BidirectionalLayer(len(channels), hidden_dim) for _ in range(num_layers))
        self.mask_features = mask_feature_layer(hidden_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As FeaturePyramid."""
        fine, levels = self.pyramid(features)
        return self.mask_features(fine), levels

    def pyramid(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As FeaturePyramid."""
        maps = [project(x) for project, x in zip(self.input_projections, features, strict=True)]
        for layer in self.layers:
            maps = layer(maps)
        fine, *levels = maps
        return fine, levels[::-1]


class BidirectionalLayer(nn.Module):
    """EfficientDet, fig. 3d and eq. of sec. 3.3: maps of 2 and more sizes, each fused with its neighbours' maps.

    From the coarsest to the finest each map takes in the one above, then back from the finest to the coarsest each
    takes in the one below, and its own input again where that was fused on the way down.
    """

    def __init__(self, num_maps: int, dim: int) -> None:
        super().__init__()
        # Index 0 is the finest map, as in the list of maps.
        self.down = nn.ModuleList(Fusion(2, dim) for _ in range(num_maps - 1))  # into map 0 .. num_maps - 2
        inner = [Fusion(3, dim) for _ in range(num_maps - 2)]
        self.up = nn.ModuleList([*inner, Fusion(2, dim)])  # into map 1 .. num_maps - 1

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: fine to coarse, each [N, C, h, w], each size half the one before -> the same shapes."""
        *finer, coarsest = maps
        descended = [coarsest]  # coarse to fine
        for fusion, x in zip(reversed(self.down), reversed(finer), strict=True):
            descended.append(fusion(x, doubled(descended[-1])))
        *inner, finest = descended[1:]
        fused = [finest]  # fine to coarse
        for index, fusion in enumerate(self.up, start=1):
            halved = F.max_pool2d(fused[-1], 3, stride=2, padding=1)  # [N, C, h/2, w/2]
            own = [maps[index]] if fusion.num_inputs == 2 else [maps[index], inner[-index]]
            fused.append(fusion(*own, halved))
        return fused


class Fusion(nn.Module):
    """Weighted mean of maps with learned weights, SiLU, and a depthwise separable convolution with GroupNorm.

    EfficientDet's fast normalised fusion: weights are kept from falling below 0 by a ReLU. (They are scale-free, so
    weight decay does not pull the mean anywhere.)
    """

    EPSILON = 1e-4

    def __init__(self, num_inputs: int, dim: int) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.pointwise = nn.Conv2d(dim, dim, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)
        for convolution in (self.depthwise, self.pointwise):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps of one shape [N, C, h, w] -> [N, C, h, w]."""
        weights = F.relu(self.weights)  # [num_inputs]
        weights = weights / (weights.sum() + self.EPSILON)
        mean = sum(weight * x for weight, x in zip(weights, maps, strict=True))  # [N, C, h, w]
        return self.norm(self.pointwise(self.depthwise(F.silu(mean))))


def doubled(features: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, C, 2h, 2w], each pixel four times."""
    return F.interpolate(features, scale_factor=2, mode="nearest")
