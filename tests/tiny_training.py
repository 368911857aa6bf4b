"""A network, a data set and settings with which a training step takes milliseconds."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from mask2edge.train.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.model.backbones.frozen_batch_norm import FrozenBatchNorm2d
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.pixel_decoder import PixelDecoder

CONFIG = Config(
    name="tiny",
    model=ModelConfig(
        backbone="efficientnet-lite0",
        num_classes=3,
        num_queries=6,
        hidden_dim=32,
        num_heads=2,
        encoder_layers=1,
        encoder_ffn=32,
        decoder_layers=1,
        decoder_ffn=32,
    ),
    loss=LossConfig(num_points=64),
    data=DataConfig(crop=(64, 96), shortest_edge=48, longest_edge=64, workers=0),
    train=TrainConfig(
        steps=4, batch_size=2, learning_rate=1e-3, validate_every=2, log_every=1, checkpoint_every=2, clip_norm=1.0
    ),
)


class TinyBackbone(nn.Module):
    """Four maps by strided convolutions: the loop saves and loads often, and a real backbone has 14 MB."""

    channels = (8, 8, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = FrozenBatchNorm2d(8)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in ((8, 8), (8, 16), (16, 16)))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.norm(self.stem(pixels)).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return maps


def tiny_model(seed: int, dropout: float = 0.0) -> Mask2Former:
    torch.manual_seed(seed)
    return Mask2Former(
        TinyBackbone(),
        PixelDecoder(TinyBackbone.channels, hidden_dim=32, ffn_dim=32, num_layers=1, num_heads=2),
        MaskDecoder(3, num_queries=6, hidden_dim=32, ffn_dim=32, num_layers=1, num_heads=2, dropout=dropout),
    )


def write_bands(root: Path) -> tuple[SemanticFolder, SemanticFolder]:
    """Five images of 48x64 to train on and two to validate; classes are bands that the colours show."""
    (root / "classes.txt").write_text("red\ngreen\nblue")
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for index in range(count):
            label_map = np.repeat(np.sort(generator.integers(0, 3, 48))[:, None], 64, 1).astype(np.uint8)
            image = np.eye(3)[label_map] * 200 + generator.integers(0, 50, (48, 64, 3))
            cv2.imwrite(str(root / f"{split}/{index}.png"), image[:, :, ::-1].astype(np.uint8))
            cv2.imwrite(str(root / f"{split}annot/{index}.png"), label_map)
    return SemanticFolder(root, "train"), SemanticFolder(root, "val")
