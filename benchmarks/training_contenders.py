"""One training step of ours and of Hugging Face's Mask2Former with its own loss: same architecture, input and targets.

    case = CASES["r50"]
    step = CONTENDERS["ours"](case)       # builds model, loss, optimiser, and one batch
    step()                                # forward, loss, backward, update; returns the loss

Weights are random on both sides, batches and their targets the same. Statistics of the backbone's norms are frozen on
both, as the paper trains. Hugging Face gets its targets as its image processor makes them: float32 masks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mask2edge.train.config import LossConfig, ModelConfig, TrainConfig
from mask2edge.train.loss import SetCriterion
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.optimizer import build_optimizer

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BLOBS = 8  # targets are made of squares of an eighth of the crop


@dataclasses.dataclass(frozen=True)
class Case:
    """batch: images; crop: (H, W); targets and points: per image and per mask."""

    model: ModelConfig
    batch: int
    crop: tuple[int, int]
    targets: int
    points: int


CASES = {
    "r50": Case(ModelConfig("resnet50", num_classes=133), 1, (512, 512), 20, 12544),
    "swin-t": Case(ModelConfig("swin-tiny", num_classes=133), 1, (512, 512), 20, 12544),
    "r50-small": Case(
        ModelConfig(
            "resnet50", num_classes=11, num_queries=50, hidden_dim=128, encoder_layers=3, encoder_ffn=512,
            decoder_layers=6, decoder_ffn=512,
        ),
        4, (256, 256), 10, 2048,
    ),
}  # fmt: skip


def random_targets(
    count: int, size: tuple[int, int], num_classes: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """{"labels": int64 [T], "masks": bool [T, H, W]}: blobs, each a quarter of the image, that may overlap."""
    height, width = size
    blobs = torch.rand(count, BLOBS, BLOBS, generator=generator) < 0.25  # [T, 8, 8]
    masks = blobs.repeat_interleave(height // BLOBS, 1).repeat_interleave(width // BLOBS, 2)  # [T, H, W]
    return {"labels": torch.randint(0, num_classes, (count,), generator=generator), "masks": masks}


def make_batch(case: Case) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pixels [N, 3, H, W] and N targets."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(case.batch, 3, *case.crop, generator=generator)
    targets = [random_targets(case.targets, case.crop, case.model.num_classes, generator) for _ in range(case.batch)]
    return pixels, targets


def our_step(case: Case) -> Callable[[], float]:
    torch.manual_seed(0)
    model = build_model(case.model).train()
    optimizer = build_optimizer(model, TrainConfig())
    criterion = SetCriterion(case.model.num_classes, num_points=case.points, generator=torch.Generator().manual_seed(0))
    pixels, targets = make_batch(case)

    def step() -> float:
        total = criterion.total(criterion(model(pixels), targets))
        return update(optimizer, total)

    return step


def huggingface_step(case: Case) -> Callable[[], float]:
    """Raises ImportError without transformers."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of a ResNet; the paper's own model has one
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(huggingface_config(case)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, TrainConfig.learning_rate, weight_decay=0.05, foreach=True)
    pixels, targets = make_batch(case)
    masks, labels = [each["masks"].float() for each in targets], [each["labels"] for each in targets]

    def step() -> float:
        return update(optimizer, model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss)

    return step


def update(optimizer: torch.optim.Optimizer, total: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(parameters, TrainConfig.clip_norm)
    optimizer.step()
    return total.item()


def huggingface_config(case: Case) -> Any:
    """Mask2FormerConfig of the case's network."""
    from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig

    model, loss = case.model, LossConfig()
    if model.backbone == "resnet50":
        backbone = ResNetConfig(
            layer_type="bottleneck", depths=[3, 4, 6, 3], hidden_sizes=[256, 512, 1024, 2048], embedding_size=64,
            out_features=STAGES,
        )  # fmt: skip
    else:
        backbone = SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, drop_path_rate=0.3,
            out_features=STAGES,
        )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=model.num_classes,
        feature_size=model.hidden_dim,
        mask_feature_size=model.hidden_dim,
        hidden_dim=model.hidden_dim,
        encoder_feedforward_dim=model.encoder_ffn,
        encoder_layers=model.encoder_layers,
        decoder_layers=model.decoder_layers + 1,  # it counts the prediction before the first one
        dim_feedforward=model.decoder_ffn,
        num_attention_heads=model.num_heads,
        num_queries=model.num_queries,
        class_weight=loss.class_weight,
        mask_weight=loss.mask_weight,
        dice_weight=loss.dice_weight,
        no_object_weight=loss.no_object_weight,
        train_num_points=case.points,
        oversample_ratio=loss.oversample_ratio,
        importance_sample_ratio=loss.importance_sample_ratio,
    )


CONTENDERS: dict[str, Callable[[Case], Callable[[], float]]] = {"ours": our_step, "huggingface": huggingface_step}
