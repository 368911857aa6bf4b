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
from mask2edge.train.config import LossConfig
from mask2edge.train.loss.matcher import HungarianMatcher
from mask2edge.train.loss.point_sampling import sample_masks, sample_points, uncertain_points, uniform_points
from mask2edge.train.loss.proposals import proposal_loss

Target = Mapping[str, Tensor]  # {"labels": int64 [T], "masks": bool, uint8 or floating [T, H, W]}
Match = tuple[Tensor, Tensor]  # queries and their targets, int64 [min(Q, T)] each


class SetCriterion(nn.Module):
    """Cross-entropy on classes, binary cross-entropy and dice on points of matched masks, with deep supervision.

    Paper, sec. 3.4 and 4.1; mask2former/modeling/criterion.py. Every prediction is matched anew. All terms are
    computed in float32 whatever the autocast state. settings: the fields of LossConfig, with its defaults. matching_on,
    loss_on: "points", or "masks" for all pixels (the paper's table 5): in matching those of the mask logits, in the
    loss those of the targets, to whose size the logits are interpolated, as MaskFormer does. Raises InputError for
    settings outside their range.

    `generator` draws every point where `forward` is given no others; training gives others, one for each sample, which
    leave nothing to save. The reference draws new points to match each prediction on; here an image's predictions are
    matched on the same ones, which leaves the points' distribution as it is and needs the targets read once. The points
    of the losses are new for every prediction, as there.
    """

    def __init__(self, num_classes: int, *, generator: torch.Generator | None = None, **settings: Any) -> None:
        super().__init__()
        loss = LossConfig(**settings)
        if num_classes < 1:
            raise InputError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.weights = {"class": loss.class_weight, "mask": loss.mask_weight, "dice": loss.dice_weight}
        self.weights["proposal"] = loss.proposal_weight
        self.pilot_weight = loss.pilot_weight
        self.num_points = loss.num_points
        self.oversample_ratio = loss.oversample_ratio
        self.importance_sample_ratio = loss.importance_sample_ratio
        self.matching_on, self.loss_on = loss.matching_on, loss.loss_on
        self.generator = generator
        self.matcher = HungarianMatcher(loss.class_weight, loss.mask_weight, loss.dice_weight)
        class_weights = torch.ones(num_classes + 1)  # [K+1], the last is "no object"
        class_weights[-1] = loss.no_object_weight
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
        (no "auxiliary": the final prediction alone). targets: N dicts {"labels": int64 [T], "masks": bool, uint8 or
        floating [T, H, W]}, masks over the whole padded input, one resolution for the batch. num_masks: divisor of the
        mask and dice terms; by default the mean number of targets per process, at least 1. generators: one per image,
        which draws all of its points and no other's; they do not depend on the rest of the batch then. Each draws the
        points to match on, then, prediction by prediction and the final one first, candidates and uniform points of
        the targets that are matched.

        Raises InputError for targets of the wrong number, shape, type or class.
        """
        device = outputs["mask_logits"].device
        labels, masks = self._check(targets, len(outputs["mask_logits"]), device)
        generators = self._generators(generators, len(labels))
        if num_masks is None:
            num_masks = average_num_masks(sum(len(each) for each in labels), device)
        predictions = [outputs, *outputs.get("auxiliary", ())]
        matches = self._match(predictions, labels, masks, generators)
        losses = {}
        for index, (prediction, indices) in enumerate(zip(predictions, matches, strict=True)):
            suffix = "" if index == 0 else f"_{index - 1}"
            terms = self._prediction_losses(prediction, indices, labels, masks, num_masks, generators)
            losses.update({f"{name}{suffix}": value for name, value in terms.items()})
        for index, mask_logits in enumerate(outputs.get("piloted", ())):
            terms = self._piloted_losses(mask_logits, labels, masks, num_masks, generators)
            losses.update({f"{name}_piloted_{index}": self.pilot_weight * value for name, value in terms.items()})
        if "proposal_logits" in outputs:
            losses["proposal"] = proposal_loss(outputs["proposal_logits"], labels, masks, num_masks)
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The scalar to minimise: the weighted sum of what `forward` returned."""
        return sum(self.weights[name.partition("_")[0]] * value for name, value in losses.items())  # type: ignore

    def _match(
        self,
        predictions: Sequence[Mapping[str, Tensor]],
        labels: list[Tensor],
        masks: Tensor,
        generators: Sequence[torch.Generator],
    ) -> list[list[Match]]:
        """For each prediction, each image's matched queries and targets."""
        by_image = []
        for n, image_masks in enumerate(masks.split([len(each) for each in labels])):
            points = None
            if self.matching_on == "points":
                points = uniform_points(1, self.num_points, generators[n], masks.device)  # [1, P, 2]
            pairs = [(each["class_logits"][n], each["mask_logits"][n]) for each in predictions]
            by_image.append(self.matcher(pairs, labels[n], image_masks, points))
        return [list(matches) for matches in zip(*by_image, strict=True)]

    def _prediction_losses(
        self,
        prediction: Mapping[str, Tensor],
        matches: list[Match],
        labels: list[Tensor],
        masks: Tensor,
        num_masks: float | Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """The three terms of one prediction. masks: [sum of T, H, W], all images' in order."""
        class_logits, mask_logits = prediction["class_logits"], prediction["mask_logits"]
        device = mask_logits.device
        images = torch.cat([torch.full_like(i, n) for n, (i, _) in enumerate(matches)]).to(device)  # [M]
        queries = torch.cat([i for i, _ in matches]).to(device)  # [M]
        starts = [sum(len(each) for each in labels[:n]) for n in range(len(labels))]
        matched = torch.cat([j + start for (_, j), start in zip(matches, starts, strict=True)]).to(device)  # [M]

        with torch.autocast(device.type, enabled=False):
            classes = torch.full(class_logits.shape[:2], self.num_classes, device=device)  # [N, Q]
            classes[images, queries] = torch.cat(labels)[matched]
            class_loss = F.cross_entropy(class_logits.float().transpose(1, 2), classes, weight=self.class_weights)

            predicted = mask_logits[images, queries].float().unsqueeze(1)  # [M, 1, h, w]
            draws = [(generator, len(i)) for generator, (i, _) in zip(generators, matches, strict=True)]
            return {"class": class_loss, **self._mask_losses(predicted, masks, matched, num_masks, draws)}

    def _piloted_losses(
        self,
        mask_logits: Tensor,
        labels: list[Tensor],
        masks: Tensor,
        num_masks: float | Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """Mask and dice terms of queries [N, P, h, w] that each have their target; what follows the T of an image are
        fillers."""
        counts = [len(each) for each in labels]
        with torch.autocast(mask_logits.device.type, enabled=False):
            predicted = torch.cat([own[:count] for own, count in zip(mask_logits, counts, strict=True)]).float()
            everyone = torch.arange(len(masks), device=masks.device)  # [sum of T]
            draws = list(zip(generators, counts, strict=True))
            return self._mask_losses(predicted.unsqueeze(1), masks, everyone, num_masks, draws)

    def _mask_losses(
        self,
        predicted: Tensor,
        masks: Tensor,
        matched: Tensor,
        num_masks: float | Tensor,
        draws: list[tuple[torch.Generator, int]],
    ) -> dict[str, Tensor]:
        """predicted: float32 [M, 1, h, w]; masks: [sum of T, H, W], of which `matched` [M] are wanted; draws: of each
        image its generator and how many of the M are its."""
        if self.loss_on == "points":
            points = uncertain_points(
                predicted.detach(), self.num_points, self.oversample_ratio, self.importance_sample_ratio, draws
            )  # [M, P, 2]
            wanted = sample_masks(masks, matched, points)  # [M, P]
            logits = sample_points(predicted, points).squeeze(1)  # [M, P]
        else:
            size = masks.shape[1:]
            wanted = masks[matched].flatten(1).float()  # [M, H*W]
            logits = F.interpolate(predicted, size, mode="bilinear", align_corners=False).flatten(1)  # [M, H*W]
        return {"mask": mask_loss(logits, wanted) / num_masks, "dice": dice_loss(logits, wanted) / num_masks}

    def _generators(self, generators: Sequence[torch.Generator] | None, batch: int) -> Sequence[torch.Generator]:
        if generators is None:
            if self.generator is None:
                raise ValueError("expected generators, or a criterion that was made with a generator")
            return [self.generator] * batch
        if len(generators) != batch:
            raise ValueError(f"expected one generator per image, {batch}, got {len(generators)}")
        return generators

    def _check(self, targets: Sequence[Target], batch: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
        """Validated labels, N tensors [T], and all masks in their own type, [sum of T, H, W]."""
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
        masks = [target["masks"].to(device) for target in targets]
        return labels, masks[0] if len(masks) == 1 else torch.cat(masks)


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
