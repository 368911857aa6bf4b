"""Hugging Face's Mask2Former with random weights: the independent oracle of the parity tests.

model = huggingface_mask2former("swin-t", seed=0)
save_folder(model, tmp_path / "hf")
"""

from pathlib import Path

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

STAGES = ["stage1", "stage2", "stage3", "stage4"]
NUM_CLASSES = 7  # small on purpose: the class head is one layer


def backbone_config(backbone: str) -> ResNetConfig | SwinConfig:
    """The full-size backbone "r50" or "swin-t", as the official models have it."""
    if backbone == "r50":
        return ResNetConfig(
            layer_type="bottleneck",
            depths=[3, 4, 6, 3],
            hidden_sizes=[256, 512, 1024, 2048],
            embedding_size=64,
            out_features=STAGES,
        )
    return SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.3,
        out_features=STAGES,
        attn_implementation="eager",
    )


def huggingface_mask2former(
    backbone: str, seed: int = 0, num_classes: int = NUM_CLASSES
) -> Mask2FormerForUniversalSegmentation:
    """A full-size model ("r50" or "swin-t") in eval mode, with every parameter and statistic random."""
    torch.manual_seed(seed)
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone_config(backbone),
            id2label={i: f"class {i}" for i in range(num_classes)},
            label2id={f"class {i}": i for i in range(num_classes)},
        )
    )
    randomise(model, seed)
    return model.eval()


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Replaces what initialisation leaves at 0 or 1 (biases, norms, statistics), so that nothing can hide there."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * scale

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or "empty_weight" in name:
                continue
            if name.endswith("running_var"):
                tensor.copy_(1 + noise(tensor, 0.1).abs())
            elif name.endswith("running_mean"):
                tensor.copy_(noise(tensor, 0.1))
            elif "sampling_offsets.bias" in name:
                tensor.add_(noise(tensor, 0.5))
            elif tensor.ndim == 1 and name.endswith("weight"):  # norms
                # A ResNet's residual branches are small in trained models; at 1 each, features reach the hundreds.
                tensor.copy_((0.3 if "layer.2.normalization" in name else 1) + noise(tensor, 0.1))
            elif name.endswith("bias"):
                tensor.copy_(noise(tensor, 0.1))
            elif "relative_position_bias_table" in name or "attention_weights" in name:
                tensor.copy_(noise(tensor, 0.2))
            elif "sampling_offsets.weight" in name:
                tensor.copy_(noise(tensor, 0.05))


def save_folder(model: Mask2FormerForUniversalSegmentation, path: Path, max_shard_size: str = "5GB") -> Path:
    """config.json and model.safetensors, as a user's folder has them."""
    model.save_pretrained(path, max_shard_size=max_shard_size)
    return path
