"""Where the mask losses look: bilinear reads at points, drawn uniformly or where a prediction is least certain.

    points = uncertain_points(logits, 2048, 3.0, 0.75, [(generator, len(logits))])    # [M, 2048, 2]
    predicted = sample_points(logits, points).squeeze(1)                              # [M, 2048]
    wanted = sample_masks(masks, matched, points)                                     # [M, 2048]

All coordinates are (x, y) in [0, 1] of the padded image, so maps of different resolutions are read at the same places
without resizing any. All randomness comes from generators that the caller owns. A training run makes one for each
sample, from its seed and the sample's number (train/step.py): no generator's state is saved, and a resume is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2edge.train.loss import native_masks


def sample_points(maps: Tensor, coordinates: Tensor) -> Tensor:
    """Bilinear values of `maps` at `coordinates` (paper, sec. 3.4; pixel centres at half-integers).

    maps: floating [N, C, H, W]; coordinates: same dtype, [N, P, 2], (x, y) in [0, 1]. Returns [N, C, P]. Within half
    a pixel of the border the value fades towards zero, as in the reference, which reads with zero padding.
    """
    grid = 2.0 * coordinates.unsqueeze(2) - 1.0  # [N, P, 1, 2], in [-1, 1]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)


def sample_masks(masks: Tensor, which: Tensor, coordinates: Tensor) -> Tensor:
    """`sample_points` of some masks, of any type, without a floating copy of any.

    masks: bool, uint8 or floating [T, H, W]; which: int64 [M], places among the T; coordinates: float32 [M, P, 2] or
    [1, P, 2], the same for all. Returns float32 [M, P]. Targets need no gradient, and as floating-point maps they would
    take more memory than all else of the loss.
    """
    if native_masks.applies(masks, which, coordinates):
        return native_masks.sample_masks(masks, which, coordinates)
    height, width = masks.shape[1:]
    x, y = (coordinates * coordinates.new_tensor([width, height]) - 0.5).unbind(-1)  # [M or 1, P] each, in pixels
    left, top = x.floor(), y.floor()
    columns = _neighbours(left.long(), x - left, width)
    rows = _neighbours(top.long(), y - top, height)
    flat, start = masks.reshape(-1), which[:, None] * (height * width)  # [T*H*W], [M, 1]
    values = torch.zeros((), device=masks.device)
    for row, row_weight in rows:
        for column, column_weight in columns:
            pixels = flat[start + (row * width + column)]  # [M, P]
            values = values + pixels * (row_weight * column_weight)
    return values.to(coordinates.dtype)


def _neighbours(first: Tensor, share: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels that a place lies between, along one axis, and what each counts: nothing outside of the map."""
    second = first + 1
    return [
        (first.clamp(0, length - 1), (1 - share) * ((first >= 0) & (first < length))),
        (second.clamp(0, length - 1), share * ((second >= 0) & (second < length))),
    ]


def uniform_points(count: int, num_points: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """[count, num_points, 2] coordinates, uniform in [0, 1), float32 on `device`.

    Drawn on the generator's own device: a CPU generator gives the same points to a run on any accelerator.
    """
    return torch.rand(count, num_points, 2, generator=generator, device=generator.device).to(device)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    generators: Sequence[tuple[torch.Generator, int]],
) -> Tensor:
    """Points near the predicted borders (PointRend, sec. 3.1): |logit| is smallest where the prediction is unsure.

    logits: float32 [M, 1, h, w]; generators: who draws, and for how many of the M masks, in their order. Draws
    num_points * oversample_ratio uniform candidates per mask and keeps the importance_sample_ratio * num_points least
    certain; the rest are fresh uniform points. Returns [M, num_points, 2].
    """

    def draw(num_points: int) -> Tensor:
        drawn = [uniform_points(count, num_points, generator, logits.device) for generator, count in generators]
        return torch.cat(drawn)  # [M, num_points, 2]

    num_important = int(importance_sample_ratio * num_points)
    candidates = draw(int(num_points * oversample_ratio))  # [M, P * r, 2]
    certainty = sample_points(logits, candidates).squeeze(1).abs()  # [M, P * r]
    chosen = certainty.topk(num_important, dim=1, largest=False, sorted=False).indices  # [M, I]
    important = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))  # [M, I, 2]
    return torch.cat([important, draw(num_points - num_important)], dim=1)  # [M, P, 2]
