"""A network small enough to export in a test, its description and its input sizes."""

import pytest
import torch
from torch import nn

from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing, Profile
from mask2edge.train.model.backbones.resnet import ResNet
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.model.mask_decoder import MaskDecoder
from mask2edge.train.model.pixel_decoder import PixelDecoder
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing

CLASSES, QUERIES = 5, 7
FIXED = Profile.fixed(64, 96)
DYNAMIC = Profile((1, 32, 32), (1, 64, 96), (3, 256, 256))
needs_library = pytest.mark.skipif(onnxruntime_ops_library() is None, reason=f"native ops: {why_missing()}")


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Replaces what initialisation leaves at 0 or 1, so that nothing can hide there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
            elif not tensor.any():  # sampling offsets and attention weights
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def tiny_network(seed: int = 0) -> Mask2Former:
    """One bottleneck a stage, one encoder layer, four decoder layers (two share a level)."""
    torch.manual_seed(seed)
    backbone = ResNet((1, 1, 1, 1), width=8)
    return randomise(
        Mask2Former(
            backbone, PixelDecoder(backbone.channels, 64, 96, 1, 4, 4), MaskDecoder(CLASSES, QUERIES, 64, 96, 4, 4)
        ),
        seed,
    )


def tiny_spec(classes: int = CLASSES, queries: int = QUERIES) -> ModelSpec:
    labels = tuple(Label(i, f"class {i}", None, (i, 2 * i, 3 * i), 10 + i) for i in range(classes))
    preprocessing = Preprocessing((127.5,) * 3, (127.5,) * 3, shortest_edge=64, longest_edge=96)
    return ModelSpec("tiny", labels, queries, preprocessing, Postprocessing(), size=(64, 96))
