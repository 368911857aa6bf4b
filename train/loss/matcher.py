"""Which query answers for which target: the assignment of least total cost, image by image.

matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0)
indices = matcher(predictions, labels, masks, uniform_points(1, 2048, generator, device))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2edge.train.loss.point_sampling import sample_masks, sample_points

Prediction = tuple[Tensor, Tensor]  # class_logits [Q, K+1], mask_logits [Q, h, w]


class HungarianMatcher:
    """Bipartite matching on class, mask and dice cost (paper, sec. 3.4; mask2former/modeling/matcher.py).

    It has no weights and passes no gradient. Costs are formed in float32 whatever the autocast state.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[Prediction], labels: Tensor, masks: Tensor, points: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Matches one image's queries with its targets, for each of its predictions, on the same points.

        predictions: L pairs of class_logits [Q, K+1] and mask_logits [Q, h, w]; labels: int64 [T]; masks: bool, uint8
        or floating [T, H, W] over the same padded image, of any resolution. points: [1, P, 2], (x, y) in [0, 1]; None
        compares all pixels at the mask logits' resolution, as MaskFormer does (mask_former/modeling/matcher.py).

        Returns L pairs (i, j) of int64 CPU tensors, i the queries in rising order, j their targets, with
        len(i) = len(j) = min(Q, T).
        """
        if not len(labels):
            nothing = torch.zeros(0, dtype=torch.int64)
            return [(nothing, nothing)] * len(predictions)
        with torch.autocast(masks.device.type, enabled=False):
            if points is None:
                wanted = nearest(masks, predictions[0][1].shape[1:]).flatten(1).float()  # [T, h*w]
                seen = [mask_logits.float().flatten(1) for _, mask_logits in predictions]  # L of [Q, h*w]
            else:
                everyone = torch.arange(len(masks), device=masks.device)
                wanted = sample_masks(masks, everyone, points)  # [T, P]
                # the queries are channels, for they share the points
                seen = [sample_points(mask_logits.float()[None], points)[0] for _, mask_logits in predictions]
            mask_cost, dice_cost = pairwise_costs(torch.cat(seen), wanted)  # [L*Q, T] each
            probabilities = torch.cat([class_logits.float().softmax(-1) for class_logits, _ in predictions])
            class_cost = -probabilities[:, labels]  # [L*Q, T]
            cost = self.class_weight * class_cost + self.mask_weight * mask_cost + self.dice_weight * dice_cost
        return [assign(each) for each in cost.view(len(predictions), -1, len(labels)).cpu().numpy()]


def nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """masks [T, H, W] at another size, [T, h, w], in their own type: pixels are chosen as F.interpolate's "nearest"."""
    rows, columns = (
        torch.arange(wanted, device=masks.device) * given // wanted
        for wanted, given in zip(size, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns]


def pairwise_costs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy and dice cost of every query with every target.

    logits: float32 [Q, P]; targets: float32 [T, P] in [0, 1]. Returns two tensors [Q, T].
    """
    probabilities = logits.sigmoid()  # [Q, P]
    # BCE(x, t) = softplus(x) - x t, so both costs need only products with the targets: one matrix product for the two
    products = torch.cat([logits, probabilities]) @ targets.T  # [2Q, T]
    cross, overlap = products.chunk(2)  # [Q, T] each
    mask_cost = (F.softplus(logits).sum(1, keepdim=True) - cross) / logits.shape[1]  # [Q, T]
    areas = probabilities.sum(1)[:, None] + targets.sum(1)[None, :]  # [Q, T]
    dice_cost = 1 - (2 * overlap + 1) / (areas + 1)  # [Q, T]
    return mask_cost, dice_cost


def assign(cost: np.ndarray) -> tuple[Tensor, Tensor]:
    """The assignment of least total cost for one [Q, T] matrix; a pair whose cost is not finite is the last resort.

    Such pairs get a cost just above what any complete assignment of finite pairs can differ by. The reference's
    largest float32 would do the same to them, but swamps the differences between the other costs in the solver's sums.
    """
    cost = cost.astype(np.float64)  # [Q, T]
    finite = np.isfinite(cost)
    if not finite.all():
        low, high = (cost[finite].min(), cost[finite].max()) if finite.any() else (0.0, 0.0)
        cost[~finite] = high + (high - low) * min(cost.shape) + 1.0
    queries, targets = linear_sum_assignment(cost)  # [min(Q, T)] each
    return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(targets, dtype=torch.int64)
