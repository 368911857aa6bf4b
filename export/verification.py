"""Compares an exported graph with the plain model, stage by stage, before it is written.

comparison = verify(proto, model, profile)     # raises RuntimeError where a stage differs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

from mask2edge.export.stage_comparison import (
    OUTPUTS,
    PROPOSALS,
    TOLERANCE,
    Arrays,
    Comparison,
    compare,
    noise,
    report,
    require,
    runner,
    with_injected_masks,
    with_stage_outputs,
    worse,
)
from mask2edge.runtime.spec import Profile
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.model.pixel_decoder import STRIDES, PixelDecoder


def verify(proto: onnx.ModelProto, model: Mask2Former, profile: Profile, tolerance: float = TOLERANCE) -> Comparison:
    """Runs both on noise of the profile's usual and smallest size; the worse of each stage. A table goes to stderr.

    Raises RuntimeError where a stage's error exceeds the tolerance.
    """
    run = runner(with_injected_masks(proto)), runner(with_stage_outputs(proto))
    total: Comparison | None = None
    for batch, height, width in dict.fromkeys((profile.opt, profile.min)):
        pixels = noise(batch, height, width)
        total = worse(total, compare(plain_stages(model, pixels), *run, pixels))
    assert total is not None
    report(total)
    require(total, tolerance)
    return total


def plain_stages(model: Mask2Former, pixels: np.ndarray) -> Arrays:
    """Every stage of the plain model by its name in the exported graph; pixels [N, 3, H, W]."""
    stages: dict[str, torch.Tensor] = {}

    def backbone(module: Any, inputs: Any, outputs: Any) -> None:
        stages.update({f"backbone.res{i + 2}": x for i, x in enumerate(outputs)})

    def pixel_decoder(module: Any, inputs: Any, outputs: Any) -> None:
        for index, (stride, features) in enumerate(zip(STRIDES, outputs[1], strict=True)):
            feeds_fine_map = isinstance(model.pixel_decoder, PixelDecoder) and stride == STRIDES[-1]
            if index not in model.mask_decoder.levels_read and not feeds_fine_map:
                continue  # no layer reads this level, so the graph has none
            stages[f"pixel_decoder.level{stride}"] = features.flatten(2).transpose(1, 2)  # [N, hw, C]

    def fine(module: Any, inputs: Any) -> None:
        stages["pixel_decoder.fine"] = inputs[0]  # [N, C, H/4, W/4]

    def layer(index: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, outputs: Any) -> None:
            if inputs[4] is not None:
                stages[f"decoder.{index}.mask_logits"] = inputs[4]  # [N, Q, hw]
            stages[f"decoder.{index}.queries"] = outputs  # [N, Q, C]

        return hook

    def proposals(module: Any, inputs: Any, outputs: Any) -> None:
        stages[PROPOSALS] = outputs  # [N, K, H/8, W/8]

    guided = model.mask_decoder.guided_queries
    hooks = [
        *([guided.scores.register_forward_hook(proposals)] if guided is not None else []),
        model.backbone.register_forward_hook(backbone),
        model.pixel_decoder.register_forward_hook(pixel_decoder),
        model.pixel_decoder.mask_features.register_forward_pre_hook(fine),
        *(x.register_forward_hook(layer(i)) for i, x in enumerate(model.mask_decoder.layers)),
    ]
    try:
        with torch.no_grad():
            output = model.eval()(torch.from_numpy(pixels).to(next(model.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()
    stages.update({name: output[name] for name in OUTPUTS})
    return {name: value.numpy() for name, value in stages.items()}
