"""Every term of the loss equals Hugging Face's Mask2FormerLoss, an independent implementation, on the same points.

    pytest -k loss_parity

Both sides look at the same points: Hugging Face's `torch.rand` is answered from the streams of our generators, one for
each image, in the order that SetCriterion.forward documents.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from mask2edge.train.loss import HungarianMatcher, SetCriterion
from mask2edge.train.loss.point_sampling import uncertain_points, uniform_points

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


def image_generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + n) for n in range(count)]


@contextlib.contextmanager
def answered_from(generators: list[torch.Generator], counts: list[int]) -> Iterator[None]:
    """Within it torch.rand gives Hugging Face our points: those to match on are an image's for all its predictions."""
    draw = torch.rand
    matching = [draw(1, POINTS, 2, generator=generator) for generator in generators]
    matched = [min(QUERIES, count) for count in counts]
    # for each prediction it asks for every image's points to match on, then for candidates, then for uniform points
    calls = itertools.cycle([*range(len(counts)), None, None])

    def answer(*shape: int, device: object = None) -> torch.Tensor:
        image = next(calls)
        if image is not None:
            assert shape == (1, POINTS, 2)
            return matching[image]
        assert shape[0] == sum(matched)
        return torch.cat([draw(m, *shape[1:], generator=g) for m, g in zip(matched, generators, strict=True)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", answer)
        yield


def ours(weights: tuple[float, float, float]) -> SetCriterion:
    return SetCriterion(
        CLASSES,
        class_weight=weights[0],
        mask_weight=weights[1],
        dice_weight=weights[2],
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("counts", TARGETS.values(), ids=TARGETS)
def test_loss_parity(counts, weights):
    """Names, values, the weighted total and its gradients, final prediction and three earlier ones."""
    seed = 11
    outputs, targets = make(counts, auxiliary=3, seed=2)
    masks, labels = [t["masks"].float() for t in targets], [t["labels"] for t in targets]
    leaves = [p[key] for p in (outputs, *outputs["auxiliary"]) for key in ("class_logits", "mask_logits")]

    criterion = ours(weights)
    losses = criterion(outputs, targets, generators=image_generators(seed, len(counts)))
    total = criterion.total(losses)
    gradients = torch.autograd.grad(total, leaves)

    loss = theirs(weights)
    with answered_from(image_generators(seed, len(counts)), counts):
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
    matcher = HungarianMatcher(class_weight, mask_weight, dice_weight)
    generator = torch.Generator().manual_seed(4)  # the same stream as theirs, image by image
    got = []
    for *prediction, image_labels, image_masks in zip(
        outputs["class_logits"], outputs["mask_logits"], labels, masks, strict=True
    ):
        points = uniform_points(1, POINTS, generator, image_masks.device)
        got.extend(matcher([tuple(prediction)], image_labels, image_masks, points))
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
    got = uncertain_points(logits, POINTS, 3.0, 0.75, [(torch.Generator().manual_seed(9), 5)])
    loss = theirs(WEIGHTS["paper"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        expected = loss.sample_points_using_uncertainty(logits, loss.calculate_uncertainty, POINTS, 3.0, 0.75)
    for mine, other in zip(got, expected, strict=True):
        assert sorted(map(tuple, mine.tolist())) == sorted(map(tuple, other.tolist()))
