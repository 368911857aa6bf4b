"""Where the mask losses look: bilinear reads at points, drawn uniformly or where a prediction is least certain.

    points = uncertain_points(mask_logits[:, None], 2048, 3.0, 0.75, generator)      # [M, 2048, 2]
    logits = sample_points(mask_logits[:, None], points).squeeze(1)                   # [M, 2048]

All coordinates are (x, y) in [0, 1] of the padded image, so maps of different resolutions are read at the same places
without resizing any. All randomness comes from a generator that the caller owns: its state belongs to a training run's
checkpoint, and an exact resume needs nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2edge.runtime.command_line import InputError


def sample_points(maps: Tensor, coordinates: Tensor) -> Tensor:
    """Bilinear values of `maps` at `coordinates` (paper, sec. 3.4; pixel centres at half-integers).

    maps: floating [N, C, H, W]; coordinates: same dtype, [N, P, 2], (x, y) in [0, 1]. Returns [N, C, P]. Within half
    a pixel of the border the value fades towards zero, as in the reference, which reads with zero padding.
    """
    grid = 2.0 * coordinates.unsqueeze(2) - 1.0  # [N, P, 1, 2], in [-1, 1]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)


def uniform_points(count: int, num_points: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """[count, num_points, 2] coordinates, uniform in [0, 1), float32 on `device`.

    Drawn on the generator's own device: a CPU generator gives the same points to a run on any accelerator.
    """
    return torch.rand(count, num_points, 2, generator=generator, device=generator.device).to(device)


@torch.no_grad()
def uncertain_points(
    logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float, generator: torch.Generator
) -> Tensor:
    """Points near the predicted borders (PointRend, sec. 3.1): |logit| is smallest where the prediction is unsure.

    logits: float32 [M, 1, h, w]. Draws num_points * oversample_ratio uniform candidates per mask and keeps the
    importance_sample_ratio * num_points least certain; the rest are fresh uniform points. Returns [M, num_points, 2].
    """
    count, device = logits.shape[0], logits.device
    num_important = int(importance_sample_ratio * num_points)
    candidates = uniform_points(count, int(num_points * oversample_ratio), generator, device)  # [M, P * r, 2]
    certainty = sample_points(logits, candidates).squeeze(1).abs()  # [M, P * r]
    chosen = certainty.topk(num_important, dim=1, largest=False, sorted=False).indices  # [M, I]
    important = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))  # [M, I, 2]
    uniform = uniform_points(count, num_points - num_important, generator, device)  # [M, P - I, 2]
    return torch.cat([important, uniform], dim=1)  # [M, P, 2]


def check_point_settings(num_points: int, oversample_ratio: float, importance_sample_ratio: float) -> None:
    """Raises InputError for settings with which `uncertain_points` could not draw what it promises."""
    if num_points < 1:
        raise InputError(f"loss.num_points: expected at least 1, got {num_points}")
    if not oversample_ratio >= 1:
        raise InputError(f"loss.oversample_ratio: expected at least 1, got {oversample_ratio}")
    if not 0 <= importance_sample_ratio <= 1:
        raise InputError(f"loss.importance_sample_ratio: expected 0 to 1, got {importance_sample_ratio}")
