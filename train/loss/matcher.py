"""Which query answers for which target: the assignment of least total cost, image by image.

matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=2048)
indices = matcher(class_logits, mask_logits, labels, masks, generator)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2edge.train.loss.point_sampling import sample_points, uniform_points


class HungarianMatcher:
    """Bipartite matching on class, mask and dice cost (paper, sec. 3.4; mask2former/modeling/matcher.py).

    It has no weights and passes no gradient. Costs are formed in float32 whatever the autocast state.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float, num_points: int) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> list[tuple[Tensor, Tensor]]:
        """Matches each image's queries with its targets, on one set of uniform points per image.

        class_logits: [N, Q, K+1]; mask_logits: [N, Q, h, w]; labels: N tensors int64 [T]; masks: N float tensors
        [T, H, W] over the same padded image, of any resolution. An image without targets gets two empty tensors.

        Returns N pairs (i, j) of int64 CPU tensors, i the queries in rising order, j their targets, with
        len(i) = len(j) = min(Q, T).
        """
        generators = [generator] * len(mask_logits) if isinstance(generator, torch.Generator) else generator
        points = torch.cat([uniform_points(1, self.num_points, g, mask_logits.device) for g in generators])  # [N, P, 2]
        with torch.autocast(mask_logits.device.type, enabled=False):
            # one read for the batch: the queries of an image are channels, for they share its points
            predicted = sample_points(mask_logits.float(), points)  # [N, Q, P]
            probabilities = class_logits.float().softmax(-1)  # [N, Q, K+1]
            costs = []
            for n, (image_labels, image_masks) in enumerate(zip(labels, masks, strict=True)):
                wanted = sample_points(image_masks.float()[None], points[n : n + 1])[0]  # [T, P]
                class_cost = -probabilities[n][:, image_labels]  # [Q, T]
                mask_cost, dice_cost = pairwise_costs(predicted[n], wanted)  # [Q, T] each
                costs.append(
                    self.class_weight * class_cost + self.mask_weight * mask_cost + self.dice_weight * dice_cost
                )
        return [assign(cost.cpu().numpy()) for cost in costs]


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
