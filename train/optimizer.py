"""AdamW over the reference's parameter groups (but for one embedding), and the learning rate's course.

    optimizer = build_optimizer(model, config.train)
    set_learning_rate(optimizer, config.train, step)

Paper, sec. 4.1; train_net.py and the solver settings of the reference.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import nn

from mask2edge.runtime.command_line import InputError
from mask2edge.train.config import TrainConfig

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
# Embeddings that are plain parameters here. The reference does not decay the mask decoder's three, which are
# nn.Embedding there, and Swin's bias tables, which train_net.py names. The pixel decoder's level_embed is a bare
# parameter there too (msdeformattn.py), and so it is decayed; here it is treated as the other embeddings are.
EMBEDDINGS = ("level_embed", "query_features", "query_positions", "relative_position_bias_table")
POLYNOMIAL_POWER = 0.9


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with up to four groups: backbone or not (its rate is multiplied), decayed or not (norms and embeddings).

    Each group has `base_lr`, its rate before the schedule. Frozen parameters are left out. Reference: train_net.py,
    which decays pixel_decoder.level_embed as well.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decays = not isinstance(module, (*NORMS, nn.Embedding)) and name not in EMBEDDINGS
                key = (module_name.split(".")[0] == "backbone", decays)
                groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate,
                "base_lr": config.learning_rate * (config.backbone_multiplier if in_backbone else 1.0),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (in_backbone, decays), parameters in groups.items()
        ],
        lr=config.learning_rate,
        foreach=True,
    )


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Parameters of the modules (or parameters) named by `prefixes`, such as "backbone.stem", will not learn.

    Raises InputError for a name that is not in the network, or where nothing is left to learn.
    """
    for prefix in prefixes:
        inside = [p for name, p in model.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
        if not inside:
            known = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"train.freeze: expected names of modules with weights, such as {known} or a part of one "
                f"(backbone.stem), got {prefix!r}"
            )
        for parameter in inside:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"train.freeze: expected some weights left to train, {', '.join(prefixes)} are all there are")


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Sets every group's rate for the update after `step` updates; returns the rate outside the backbone."""
    factor = schedule_factor(config, step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.learning_rate * factor


def schedule_factor(config: TrainConfig, step: int) -> float:
    """What the base rates are multiplied by, 0 <= step < config.steps; warm-up is linear over warmup_steps."""
    done = step / config.steps
    if config.schedule == "polynomial":
        factor = (1 - done) ** POLYNOMIAL_POWER
    elif config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * done))
    else:
        factor = 0.1 ** bisect_right(config.step_milestones, done)
    return factor * min(1.0, (step + 1) / (config.warmup_steps + 1))
