"""The moving average of the weights: steadier than the weights themselves, and what a run validates and saves.

averaged = AveragedWeights(model, decay=0.999)
averaged.update(step)      # after the update that follows `step` updates
averaged.model(pixels)     # a network of its own, in eval mode
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedWeights:
    """average ← d · average + (1 − d) · weight, with d = min(decay, (1 + step) / (10 + step)).

    The rising decay (TensorFlow's ExponentialMovingAverage, num_updates) lets the average leave the initial weights
    within a few steps, however long its memory is later. Frozen weights and buffers are the model's.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        mine, live = dict(self.model.named_parameters()), dict(model.named_parameters())
        self.averages: dict[str, Tensor] = {name: mine[name] for name in names}
        self._weights = [live[name] for name in names]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    def load(self, model: nn.Module, averages: Mapping[str, Tensor]) -> None:
        """Takes over the averages of a stopped run, and the rest of the network from its `model`."""
        self.model.load_state_dict({**model.state_dict(), **averages})

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), self._weights, 1 - decay)
        for mine, live in self._buffers:
            mine.copy_(live)
