"""Less memory for more time: inside a stage or layer nothing is kept for the backward pass, which runs it again.

    checkpoint_activations(model)

Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(model: nn.Module) -> None:
    """Backbone stages, encoder layers and decoder layers; the gradients are the same, dropped paths included."""
    for module in repeated_modules(model):
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]


def repeated_modules(model: nn.Module) -> list[nn.Module]:
    """The members of `stages` of the backbone, and of `layers` of both decoders where they have any."""
    lists = ("backbone.stages", "pixel_decoder.layers", "mask_decoder.layers")
    modules = dict(model.named_modules())
    return [module for name in lists if name in modules for module in modules[name].children()]
