"""A torch network in the place of an engine: the runtime's own pre- and post-processing around it.

    segmenter = torch_segmenter(model, spec)
    segmenter(image, task="panoptic")

So what training validates by, and what a checkpoint scores, differ from an engine in the network alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import SIZE_DIVISOR, EngineSpec, ModelSpec, Preprocessing, Profile


class TorchSession:
    """A network with the `run` of an engine's session, in float32, where its weights are."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._device = next(model.parameters()).device

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        with torch.inference_mode():
            output = self._model(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
        return {name: output[name].detach().float().cpu().numpy() for name in ("class_logits", "mask_logits")}

    def close(self) -> None:
        """The network is the caller's."""


def torch_segmenter(
    model: nn.Module,
    spec: ModelSpec,
    profile: Profile | None = None,
    checkpoint_sha256: str | None = None,
    threads: int | None = None,
) -> Segmenter:
    """`model` in eval mode; profile None: images keep their ratio at the spec's edges. `threads`: see Segmenter."""
    engine = EngineSpec(
        model=spec, profile=profile or keep_ratio_profile(spec.preprocessing), backend="torch", backend_version="",
        precision="fp32", ops="standard", op_library_version=0, checkpoint_sha256=checkpoint_sha256,
    )  # fmt: skip
    return Segmenter(engine, TorchSession(model), threads)


def keep_ratio_profile(rules: Preprocessing) -> Profile:
    """A profile that never limits an image resized by `rules`, as that of a dynamic engine of enough size."""
    longest = -(-rules.longest_edge // SIZE_DIVISOR) * SIZE_DIVISOR
    return Profile((1, SIZE_DIVISOR, SIZE_DIVISOR), (1, longest, longest), (1, longest, longest))
