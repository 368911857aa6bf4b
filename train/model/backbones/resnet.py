"""ResNet-50 and -101 (He et al., 2015) as detectron2 builds them: the stride sits in the 3×3 convolution.

res2, res3, res4, res5 = build_resnet("resnet50")(pixels)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d

# name -> bottlenecks in each of the four stages
VARIANTS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class ConvNorm(nn.Module):
    """Convolution without bias, then a batch norm with frozen statistics."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = FrozenBatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # [N, out, H/stride, W/stride]


class Bottleneck(nn.Module):
    """1×1 down, 3×3 (with the stride), 1×1 up; a projected shortcut where the shape changes."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, out_channels, 1)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))  # [N, width, H, W]
        y = F.relu(self.conv2(y))  # [N, width, H/stride, W/stride]
        y = self.conv3(y)  # [N, out, H/stride, W/stride]
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """`depths`: bottlenecks in each stage; `width`: channels of the stem and of the first stage's 3×3."""

    def __init__(self, depths: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width, 7, stride=2)
        stages: list[nn.Module] = []
        channels = []
        in_channels = width
        for index, depth in enumerate(depths):
            inner = width * 2**index
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Bottleneck(in_channels, inner, inner * 4, stride))
                in_channels = inner * 4
            stages.append(nn.Sequential(*blocks))
            channels.append(in_channels)
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """pixels [N, 3, H, W] -> [res2, res3, res4, res5], [N, channels[i], H/s, W/s] at strides 4, 8, 16, 32."""
        x = F.relu(self.stem(pixels))  # [N, width, H/2, W/2]
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)  # [N, width, H/4, W/4]
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def build_resnet(name: str) -> ResNet:
    """A variant of VARIANTS with random weights."""
    return ResNet(VARIANTS[name])
