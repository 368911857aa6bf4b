"""The loss of a training step: class, mask and dice terms of every prediction the decoder makes.

criterion = SetCriterion(num_classes=11, num_points=2048, generator=torch.Generator().manual_seed(0))
losses = criterion(outputs, targets)      # {"class", "mask", "dice", "class_0", "mask_0", ...}, unweighted
criterion.total(losses).backward()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.runtime.command_line import InputError
from mask2edge.train.loss.matcher import HungarianMatcher
from mask2edge.train.loss.point_sampling import check_point_settings, sample_points, uncertain_points

Target = Mapping[str, Tensor]  # {"labels": int64 [T], "masks": bool or float [T, H, W]}


class SetCriterion(nn.Module):
    """Cross-entropy on classes, binary cross-entropy and dice on points of matched masks, with deep supervision.

    Paper, sec. 3.4 and 4.1; mask2former/modeling/criterion.py. Every prediction is matched anew. All terms are
    computed in float32 whatever the autocast state. `generator` draws every point: save its state with a checkpoint
    (`criterion.generator.get_state()`). Raises InputError for settings outside their range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_point_settings(num_points, oversample_ratio, importance_sample_ratio)
        if num_classes < 1:
            raise InputError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.weights = {"class": class_weight, "mask": mask_weight, "dice": dice_weight}
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.generator = generator
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, num_points)
        class_weights = torch.ones(num_classes + 1)  # [K+1], the last is "no object"
        class_weights[-1] = no_object_weight
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        num_masks: float | Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted scalar losses by name: "class", "mask", "dice" of the final prediction; "class_0", "mask_0", ...
        of the earlier ones, 0 = the learned queries.

        outputs: {"class_logits": [N, Q, K+1], "mask_logits": [N, Q, h, w], "auxiliary": list of dicts of the same two}
        (no "auxiliary": the final prediction alone). targets: N dicts {"labels": int64 [T], "masks": bool or float
        [T, H, W]}, masks over the whole padded input, one resolution for the batch. num_masks: divisor of the mask
        and dice terms; by default the mean number of targets per process, at least 1. generators: one per image, of
        which its points are drawn; by default the criterion's own for all.

        Raises InputError for targets of the wrong number, shape, type or class.
        """
        device = outputs["mask_logits"].device
        labels, masks = self._check(targets, len(outputs["mask_logits"]), device)
        if num_masks is None:
            num_masks = average_num_masks(sum(len(each) for each in labels), device)
        losses = self._prediction_losses(outputs, labels, masks, num_masks, generators)
        for index, prediction in enumerate(outputs.get("auxiliary", ())):
            for name, value in self._prediction_losses(prediction, labels, masks, num_masks, generators).items():
                losses[f"{name}_{index}"] = value
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The scalar to minimise: the weighted sum of what `forward` returned."""
        return sum(self.weights[name.partition("_")[0]] * value for name, value in losses.items())  # type: ignore

    def _prediction_losses(
        self,
        prediction: Mapping[str, Tensor],
        labels: list[Tensor],
        masks: Tensor,
        num_masks: float | Tensor,
        generators: Sequence[torch.Generator] | None,
    ) -> dict[str, Tensor]:
        """The three terms of one prediction. masks: float32 [sum of T, 1, H, W], all images' in order."""
        counts = [len(each) for each in labels]
        image_masks = masks.squeeze(1).split(counts)  # N views [T, H, W]
        class_logits, mask_logits = prediction["class_logits"], prediction["mask_logits"]
        indices = self.matcher(class_logits, mask_logits, labels, image_masks, generators or self.generator)

        device = mask_logits.device
        images = torch.cat([torch.full_like(i, n) for n, (i, _) in enumerate(indices)]).to(device)  # [M]
        queries = torch.cat([i for i, _ in indices]).to(device)  # [M]
        starts = [sum(counts[:n]) for n in range(len(counts))]
        matched = torch.cat([j + start for (_, j), start in zip(indices, starts, strict=True)]).to(device)  # [M]

        with torch.autocast(device.type, enabled=False):
            classes = torch.full(class_logits.shape[:2], self.num_classes, device=device)  # [N, Q]
            classes[images, queries] = torch.cat(labels)[matched]
            class_loss = F.cross_entropy(class_logits.float().transpose(1, 2), classes, weight=self.class_weights)

            predicted = mask_logits[images, queries].float().unsqueeze(1)  # [M, 1, h, w]
            settings = self.num_points, self.oversample_ratio, self.importance_sample_ratio
            if generators is None:
                points = uncertain_points(predicted.detach(), *settings, self.generator)  # [M, P, 2]
            else:
                of_images = predicted.detach().split([len(i) for i, _ in indices])  # N views [T, 1, h, w]
                points = torch.cat(
                    [uncertain_points(maps, *settings, g) for maps, g in zip(of_images, generators, strict=True)]
                )  # [M, P, 2]
            with torch.no_grad():
                wanted = sample_points(masks[matched], points).squeeze(1)  # [M, P]
            logits = sample_points(predicted, points).squeeze(1)  # [M, P]
            return {
                "class": class_loss,
                "mask": mask_loss(logits, wanted) / num_masks,
                "dice": dice_loss(logits, wanted) / num_masks,
            }

    def _check(self, targets: Sequence[Target], batch: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
        """Validated labels, N tensors [T], and all masks as float32 [sum of T, 1, H, W]."""
        if len(targets) != batch:
            raise InputError(f"targets: expected one per image, {batch}, got {len(targets)}")
        for n, target in enumerate(targets):
            label, mask = target["labels"], target["masks"]
            if label.dtype != torch.int64 or label.ndim != 1:
                raise InputError(f"targets[{n}]: expected labels int64 [T], got {label.dtype} {list(label.shape)}")
            if mask.ndim != 3 or len(mask) != len(label):
                raise InputError(
                    f"targets[{n}]: expected masks [T, H, W] with T = {len(label)} as labels, got {list(mask.shape)}"
                )
            if mask.shape[1:] != targets[0]["masks"].shape[1:]:
                raise InputError(
                    f"targets[{n}]: expected masks of {list(targets[0]['masks'].shape[1:])} as the first image's, got "
                    f"{list(mask.shape[1:])}; pad every image's masks to the batch's size"
                )
        labels = [target["labels"].to(device) for target in targets]  # N of [T]
        everything = torch.cat(labels)  # [sum of T]
        # class K means "no object" to the cross-entropy: a label outside the table would be trained away in silence
        wrong = everything[(everything < 0) | (everything >= self.num_classes)]
        if len(wrong):
            raise InputError(
                f"targets: expected labels 0 to {self.num_classes - 1}, got {wrong[0].item()}; "
                "leave ignored regions out of the targets"
            )
        masks = torch.cat([target["masks"].to(device) for target in targets]).float().unsqueeze(1)
        return labels, masks


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over a mask's points, sum over masks. logits, targets: [M, P]. Returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p·t + 1) / (Σp + Σt + 1) with p = sigmoid(logits), summed over masks. logits, targets: [M, P]."""
    probabilities = logits.sigmoid()  # [M, P]
    overlap = 2 * (probabilities * targets).sum(1)  # [M]
    areas = probabilities.sum(1) + targets.sum(1)  # [M]
    return (1 - (overlap + 1) / (areas + 1)).sum()


def average_num_masks(count: int, device: torch.device) -> Tensor:
    """Mean number of targets per process, at least 1, as a float32 scalar on `device`.

    DDP averages gradients over processes, so each has to divide by the same number for the result to be the one that
    a single process would get on the whole batch.
    """
    total = torch.tensor(float(count), device=device)  # scalar
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return total.clamp(min=1.0)
