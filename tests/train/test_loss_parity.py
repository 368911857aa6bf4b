"""Every term of the loss equals Hugging Face's Mask2FormerLoss, an independent implementation, on the same points.

    pytest -k loss_parity

torch.rand fills its output from the generator in order, however the draws are split up. Both sides draw in the same
order, so one seed (the global stream for Hugging Face, ours for us) puts every point of both in the same place: points
of the matcher, candidates, importance points and the uniform rest alike.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mask2edge.train.loss import HungarianMatcher, SetCriterion
from mask2edge.train.loss.point_sampling import uncertain_points

reference = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")

CLASSES, QUERIES, POINTS = 7, 12, 150
NAMES = {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
TARGETS = {
    "several": [4, 6],
    "one-image-without": [3, 0, 5],
    "first-without": [0, 2],
    "one-target": [1],
    "one-and-none": [1, 0],
    "more-targets-than-queries": [15, 3],
}
WEIGHTS = {"paper": (2.0, 5.0, 5.0), "uneven": (1.0, 20.0, 0.5)}


def make(counts: list[int], auxiliary: int, seed: int):
    g = torch.Generator().manual_seed(seed)

    def prediction():
        return {
            "class_logits": torch.randn(len(counts), QUERIES, CLASSES + 1, generator=g).requires_grad_(),
            "mask_logits": (4 * torch.randn(len(counts), QUERIES, 16, 24, generator=g)).requires_grad_(),
        }

    outputs = {**prediction(), "auxiliary": [prediction() for _ in range(auxiliary)]}
    targets = []
    for count in counts:
        noise = torch.rand(count, 4, 6, generator=g)  # blobs of 16 pixels, not noise: masks have an inside
        masks = noise.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2) > 0.5  # [T, 64, 96]
        targets.append({"labels": torch.randint(0, CLASSES, (count,), generator=g), "masks": masks})
    return outputs, targets


def theirs(weights: tuple[float, float, float]):
    config = SimpleNamespace(
        num_labels=CLASSES,
        no_object_weight=0.1,
        class_weight=weights[0],
        mask_weight=weights[1],
        dice_weight=weights[2],
        train_num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    named = dict(zip(("loss_cross_entropy", "loss_mask", "loss_dice"), weights, strict=True))
    return reference.Mask2FormerLoss(config, named)


def ours(weights: tuple[float, float, float], seed: int) -> SetCriterion:
    return SetCriterion(
        CLASSES,
        class_weight=weights[0],
        mask_weight=weights[1],
        dice_weight=weights[2],
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("counts", TARGETS.values(), ids=TARGETS)
def test_loss_parity(counts, weights):
    """Names, values, the weighted total and its gradients, final prediction and three earlier ones."""
    seed = 11
    outputs, targets = make(counts, auxiliary=3, seed=2)
    masks, labels = [t["masks"].float() for t in targets], [t["labels"] for t in targets]
    leaves = [p[key] for p in (outputs, *outputs["auxiliary"]) for key in ("class_logits", "mask_logits")]

    criterion = ours(weights, seed)
    losses = criterion(outputs, targets)
    total = criterion.total(losses)
    gradients = torch.autograd.grad(total, leaves)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = theirs(weights)
        expected = loss(
            outputs["mask_logits"],
            outputs["class_logits"],
            masks,
            labels,
            [
                {"masks_queries_logits": p["mask_logits"], "class_queries_logits": p["class_logits"]}
                for p in outputs["auxiliary"]
            ],
        )
    expected_total = sum(w * v for k, v in expected.items() for name, w in loss.weight_dict.items() if name in k)
    expected_gradients = torch.autograd.grad(expected_total, leaves)

    suffixes = ["", "_0", "_1", "_2"]
    assert sorted(losses) == sorted(name + s for name in NAMES for s in suffixes)
    assert sorted(expected) == sorted(name + s for name in NAMES.values() for s in suffixes)
    for name, value in losses.items():
        term, _, index = name.partition("_")
        other = expected[NAMES[term] + (f"_{index}" if index else "")]
        assert value.item() > 0
        assert value.item() == pytest.approx(other.item(), abs=1e-5, rel=1e-5), name
    assert total.item() == pytest.approx(expected_total.item(), abs=1e-4, rel=1e-5)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("counts", TARGETS.values(), ids=TARGETS)
def test_loss_parity_of_the_matcher(counts, weights):
    class_weight, mask_weight, dice_weight = weights
    outputs, targets = make(counts, auxiliary=0, seed=5)
    labels, masks = [t["labels"] for t in targets], [t["masks"].float() for t in targets]
    matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, POINTS)
    got = matcher(outputs["class_logits"], outputs["mask_logits"], labels, masks, torch.Generator().manual_seed(4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        other = reference.Mask2FormerHungarianMatcher(class_weight, mask_weight, dice_weight, POINTS)
        expected = other(outputs["mask_logits"], outputs["class_logits"], masks, labels)
    for (i, j), (ei, ej) in zip(got, expected, strict=True):
        assert torch.equal(i, ei)
        assert torch.equal(j, ej)


def test_loss_parity_of_the_importance_points():
    """The same set of points per mask; ours come in no particular order."""
    logits = torch.randn(5, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    got = uncertain_points(logits, POINTS, 3.0, 0.75, torch.Generator().manual_seed(9))
    loss = theirs(WEIGHTS["paper"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        expected = loss.sample_points_using_uncertainty(logits, loss.calculate_uncertainty, POINTS, 3.0, 0.75)
    for mine, other in zip(got, expected, strict=True):
        assert sorted(map(tuple, mine.tolist())) == sorted(map(tuple, other.tolist()))
