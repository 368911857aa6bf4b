"""Mask-piloted training: true masks, made imprecise, that lead some queries through the decoder.

    pilots = gather_pilots(targets, generators)
    outputs = model(pixels, pilots)      # outputs["piloted"]: what those queries predict after each layer

MP-Former (Zhang et al., CVPR 2023), sec. 3. A learned query is matched with now this target and now that one, and its
first masks cover several; a piloted query has one target from the first layer to the last. It is left out of the
learned queries' self-attention, so that they never see the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOST, GAINED = 0.2, 0.3  # probability that a token inside a mask is left out, and that one beside it is taken in


@dataclass(frozen=True)
class Pilots:
    """labels: int64 [N, P]; masks: bool [N, P, H, W] over the padded input; seeds: N, of the noise. Behind an image's
    targets come fillers, of class 0 and with empty masks."""

    labels: Tensor
    masks: Tensor
    seeds: tuple[int, ...]

    def to(self, device: torch.device) -> Pilots:
        return dataclasses.replace(self, labels=self.labels.to(device), masks=self.masks.to(device))

    def attended(self, size: tuple[int, int]) -> Tensor:
        """Attention logits at a map's size: +1 inside, -1 outside; float32 [N, P, h*w].

        Inside are the tokens half covered by the mask, or the one most covered, with noise: some are left out, and some
        of those that touch it are taken in.
        """
        covered = F.adaptive_avg_pool2d(self.masks.float(), size)  # [N, P, h, w]
        most = covered.amax((2, 3), keepdim=True).clamp(min=1e-6)  # [N, P, 1, 1]
        inside = covered >= most.clamp(max=0.5)
        around = F.max_pool2d(inside.float(), 3, stride=1, padding=1) > 0
        draw = torch.stack(
            [torch.rand(inside.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        ).to(inside.device)  # [N, P, h, w]
        noisy = (inside & (draw >= LOST)) | (around & ~inside & (draw < GAINED))
        return noisy.flatten(2).float() * 2 - 1


def gather_pilots(targets: Sequence[Mapping[str, Tensor]], generators: Sequence[torch.Generator]) -> Pilots:
    """targets: N dicts {"labels": int64 [T], "masks": bool [T, H, W]}, of different T.

    One filler at least, also where all are empty: every process and micro-batch of a step has the same terms then.
    """
    most = max(1, *(len(target["labels"]) for target in targets))
    labels = torch.stack([F.pad(target["labels"], (0, most - len(target["labels"]))) for target in targets])
    masks = torch.stack(
        [F.pad(target["masks"], (0, 0, 0, 0, 0, most - len(target["masks"]))) for target in targets]
    )  # [N, P, H, W]
    seeds = tuple(int(torch.randint(2**62, (1,), generator=generator)) for generator in generators)
    return Pilots(labels, masks, seeds)
