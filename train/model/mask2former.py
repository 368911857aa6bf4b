"""Mask2Former (Cheng et al., CVPR 2022): backbone, pixel decoder, mask decoder.

    model = build_model(ModelConfig(backbone="resnet50", num_classes=133))
    model(pixels)["mask_logits"]   # [N, Q, H/4, W/4]

pixels [N, 3, H, W] are normalised RGB, H and W multiples of 32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mask2edge.train.config import ModelConfig
from mask2edge.train.model.backbones import build_backbone
from mask2edge.train.model.feature_pyramid import BidirectionalPyramid, FeaturePyramid
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.piloting import Pilots
from mask2edge.train.model.pixel_decoder import PixelDecoder

AnyPixelDecoder = PixelDecoder | FeaturePyramid | BidirectionalPyramid


class Mask2Former(nn.Module):
    def __init__(self, backbone: nn.Module, pixel_decoder: AnyPixelDecoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.mask_decoder = mask_decoder

    def forward(self, pixels: Tensor, pilots: Pilots | None = None) -> dict[str, Any]:
        """pixels [N, 3, H, W], H and W multiples of 32.

        Returns class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4] and `auxiliary`: the same pair for the learned
        queries (where they are supervised) and after every layer but the last, in that order. With pilots also
        `piloted`, the mask logits [N, P, H/4, W/4] after every layer of queries that true masks led.
        """
        height, width = pixels.shape[2:]
        if height % 32 or width % 32:
            raise ValueError(f"expected height and width that are multiples of 32, got {height}x{width}; pad the image")
        if self.training and pixels.device.type == "cpu":
            # depthwise convolutions and their gradients are up to three times as fast with channels side by side
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        mask_features, levels = self.pixel_decoder(self.backbone(pixels))
        *auxiliary, final = self.mask_decoder(levels, mask_features)
        outputs = {**final, "auxiliary": auxiliary}
        if auxiliary and "proposal_logits" in auxiliary[0]:
            outputs["proposal_logits"] = auxiliary[0].pop("proposal_logits")
        if pilots is not None:
            outputs["piloted"] = self.mask_decoder.piloted(levels, mask_features, pilots)
        return outputs


def build_model(config: ModelConfig) -> Mask2Former:
    """A randomly initialised network."""
    backbone = build_backbone(config.backbone)
    return Mask2Former(
        backbone,
        build_pixel_decoder(config, backbone.channels),
        MaskDecoder(
            config.num_classes,
            config.num_queries,
            config.hidden_dim,
            config.decoder_ffn,
            config.decoder_layers,
            config.num_heads,
            config.cross_attention,
            config.decoder_features,
            config.query_features,
            config.attention_order == "self-first",
            config.decoder_dropout,
        ),
    )


def build_pixel_decoder(config: ModelConfig, channels: tuple[int, int, int, int]) -> AnyPixelDecoder:
    if config.pixel_decoder == "fpn":
        return FeaturePyramid(channels, config.hidden_dim)
    if config.pixel_decoder == "bifpn":
        return BidirectionalPyramid(channels, config.hidden_dim, config.encoder_layers)
    return PixelDecoder(
        channels,
        config.hidden_dim,
        config.encoder_ffn,
        config.encoder_layers,
        config.num_heads,
        config.num_points,
        config.place_codes,
    )
