"""EfficientNet-Lite 0, 1, 2 (Tan and Le, ICML 2019; the Lite variants of the TPU repository): made for edge devices.

    build_efficientnet_lite("efficientnet-lite0")(pixels)   # 4 maps of 24, 40, 112, 320 channels

No squeeze-and-excitation, ReLU6 instead of swish, stem and last stages not scaled. Input mean = std = 127.5.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.backbones.depthwise_convolution import depthwise_convolution
from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d

# (width, depth) factors
VARIANTS = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
# (repeats, kernel, stride, expansion, channels) of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
OUTPUT_STAGES = (1, 2, 4, 6)  # the last stage of each stride: 4, 8, 16, 32
STEM_CHANNELS = 32
NORM_EPS = 1e-3


class SamePaddedConv(nn.Module):
    """Convolution and frozen norm with TensorFlow's "same" padding, which the ImageNet weights were trained with.

    At stride 2 on an even size it pads one pixel less before than after.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        total = kernel - stride
        self.padding = (total // 2, total - total // 2) * 2  # left, right, top, bottom
        symmetric = total // 2 if total % 2 == 0 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, symmetric, groups=groups, bias=False)
        self.norm = FrozenBatchNorm2d(outputs, eps=NORM_EPS)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")

    def forward(self, features: Tensor) -> Tensor:
        if self.padding[0] != self.padding[1]:
            features = F.pad(features, self.padding)
        convolved = depthwise_convolution(features, self.conv) if self.conv.groups > 1 else self.conv(features)
        return self.norm(convolved)


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SamePaddedConv(inputs, width, 1) if expansion != 1 else None
        self.depthwise = SamePaddedConv(width, width, kernel, stride, groups=width)
        self.project = SamePaddedConv(width, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        inner = features if self.expand is None else F.relu6(self.expand(features))
        inner = self.project(F.relu6(self.depthwise(inner)))
        return features + inner if self.has_shortcut else inner


class EfficientNetLite(nn.Module):
    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.stem = SamePaddedConv(3, STEM_CHANNELS, 3, stride=2)
        stages = []
        inputs = STEM_CHANNELS
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            is_end = index in (0, len(STAGES) - 1)  # the Lite variants do not deepen the first and the last stage
            repeats = repeats if is_end else math.ceil(repeats * depth)
            outputs = round_channels(channels * width)
            blocks = []
            for block in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if block == 0 else 1, expansion))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        res2, res3, res4, res5 = (round_channels(STAGES[stage][-1] * width) for stage in OUTPUT_STAGES)
        self.channels = (res2, res3, res4, res5)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """pixels [N, 3, H, W] -> maps at strides 4, 8, 16, 32."""
        features = F.relu6(self.stem(pixels))  # [N, 32, H/2, W/2]
        outputs = []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index in OUTPUT_STAGES:
                outputs.append(features)
        return outputs


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that takes away less than a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def build_efficientnet_lite(name: str) -> EfficientNetLite:
    if name not in VARIANTS:
        raise ValueError(f"expected one of {', '.join(VARIANTS)}, got {name!r}")
    return EfficientNetLite(*VARIANTS[name])
