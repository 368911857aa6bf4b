"""The loss of guided queries' scores: one pixel of each target is to have a high one, and no other pixel.

    loss = proposal_loss(logits, labels, masks, num_masks)

FastInst, sec. 3.2: targets are matched with pixels inside them, one to one, so that an object is proposed once. There a
pixel inside costs nothing; here it costs its distance from the target's centre, so that the pixels that are asked for
lie where a score can be sure. The loss is focal (RetinaNet, sec. 3), as usual for dense scores, instead of a
cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2edge.train.loss.matcher import assign

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
OUTSIDE = 100.0  # the cost of a pixel outside of the target: more than any sum of costs inside


def proposal_loss(logits: Tensor, labels: Sequence[Tensor], masks: Tensor, num_masks: float | Tensor) -> Tensor:
    """logits [N, K, h, w]; labels: N tensors int64 [T]; masks [sum of T, H, W], all images' in order -> scalar."""
    logits = logits.float()
    wanted = torch.zeros_like(logits).flatten(2)  # [N, K, h*w]
    for n, own in enumerate(masks.split([len(each) for each in labels])):
        targets, pixels = match_pixels(logits[n].detach(), labels[n], own)
        wanted[n, labels[n][targets], pixels] = 1.0
    return focal_loss(logits.flatten(2), wanted) / num_masks


@torch.no_grad()
def match_pixels(logits: Tensor, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """logits [K, h, w], labels int64 [T], masks [T, H, W] -> targets and their pixels, an index into h*w each."""
    height, width = logits.shape[1:]
    covered = F.adaptive_avg_pool2d(masks.float(), (height, width)).flatten(1)  # [T, h*w]
    most = covered.amax(1, keepdim=True)  # [T, 1]
    inside = (covered >= most.clamp(max=0.5)) & (most > 0)  # half covered, or the most covered of a small target
    rows = torch.arange(height, device=logits.device).repeat_interleave(width).float()  # [h*w]
    columns = torch.arange(width, device=logits.device).repeat(height).float()  # [h*w]
    parts = covered / covered.sum(1, keepdim=True).clamp(min=1e-6)  # [T, h*w]
    distance = torch.hypot(rows - (parts @ rows)[:, None], columns - (parts @ columns)[:, None])  # [T, h*w]
    farthest = (distance * inside).amax(1, keepdim=True)  # [T, 1]
    scores = logits.flatten(1).sigmoid()[labels]  # [T, h*w]
    cost = torch.where(inside, distance / (farthest + 1) - scores, OUTSIDE)  # [T, h*w]
    targets, pixels = (each.to(logits.device) for each in assign(cost.cpu().numpy()))
    own = inside[targets, pixels]
    return targets[own], pixels[own]


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """The sum over all elements; wanted is 0 or 1."""
    probabilities = logits.sigmoid()
    missed = (probabilities - wanted).abs()
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return ((ALPHA * wanted + (1 - ALPHA) * (1 - wanted)) * missed**GAMMA * cross).sum()
