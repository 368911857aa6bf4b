"""Backbones: an image to four feature maps, strides 4, 8, 16, 32."""

from __future__ import annotations

from torch import nn


def build_backbone(name: str) -> nn.Module:
    """A randomly initialised backbone: pixels [N, 3, H, W] -> [res2, res3, res4, res5]; `channels` has their widths.

    Raises ValueError for an unknown name.
    """
    if name.startswith("resnet"):
        from mask2edge.train.model.backbones.resnet import build_resnet

        return build_resnet(name)
    if name.startswith("swin"):
        from mask2edge.train.model.backbones.swin import build_swin

        return build_swin(name)
    if name.startswith("efficientnet-lite"):
        from mask2edge.train.model.backbones.efficientnet_lite import build_efficientnet_lite

        return build_efficientnet_lite(name)
    raise ValueError(f"expected a backbone named resnet…, swin-… or efficientnet-lite…, got {name!r}")
