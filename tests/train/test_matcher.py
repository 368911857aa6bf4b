"""The Hungarian matcher against NumPy costs, brute force, and its own symmetries.

pytest tests/train/test_matcher.py
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.loss.matcher import HungarianMatcher, assign, nearest, pairwise_costs
from mask2edge.train.loss.point_sampling import uniform_points

CLASSES = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(queries: int, targets: list[int], seed: int = 0, size: int = 8):
    g = seeded(seed)
    class_logits = torch.randn(len(targets), queries, CLASSES + 1, generator=g)
    mask_logits = 3 * torch.randn(len(targets), queries, size, size, generator=g)
    labels = [torch.randint(0, CLASSES, (t,), generator=g) for t in targets]
    masks = [(torch.rand(t, 4 * size, 4 * size, generator=g) > 0.5).float() for t in targets]
    return class_logits, mask_logits, labels, masks


def matcher(**changes) -> HungarianMatcher:
    return HungarianMatcher(**{"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, **changes})


def match(class_logits, mask_logits, labels, masks, generator, **changes):
    """One prediction of each image, on 64 points of its own."""
    result = []
    for *prediction, image_labels, image_masks in zip(class_logits, mask_logits, labels, masks, strict=True):
        points = uniform_points(1, 64, generator, image_masks.device)
        result.extend(matcher(**changes)([tuple(prediction)], image_labels, image_masks, points))
    return result


@settings(max_examples=30, deadline=None)
@given(
    queries=st.integers(1, 5),
    targets=st.integers(0, 5),
    points=st.integers(1, 40),
    scale=st.sampled_from([0.1, 3.0, 60.0]),
    seed=st.integers(0, 1000),
)
def test_pairwise_costs_against_float64_numpy(queries, targets, points, scale, seed):
    g = seeded(seed)
    logits = scale * torch.randn(queries, points, generator=g)
    wanted = torch.rand(targets, points, generator=g)
    mask_cost, dice_cost = pairwise_costs(logits, wanted)
    x, t = logits.double().numpy()[:, None], wanted.double().numpy()[None]  # [Q, 1, P], [1, T, P]
    bce = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
    p = 1 / (1 + np.exp(-x))
    dice = 1 - (2 * (p * t).sum(-1) + 1) / (p.sum(-1) + t.sum(-1) + 1)
    np.testing.assert_allclose(mask_cost.numpy(), bce.mean(-1), rtol=1e-5, atol=1e-5 * max(1, scale))
    np.testing.assert_allclose(dice_cost.numpy(), dice, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 5),
    targets=st.integers(1, 5),
    broken=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_assign_against_brute_force(queries, targets, broken, seed):
    """Fewest non-finite pairs first, least total cost among those."""
    g = np.random.default_rng(seed)
    cost = g.normal(size=(queries, targets)).astype(np.float32)
    bad = g.random(cost.shape) < broken
    cost[bad] = g.choice([np.nan, np.inf, -np.inf], size=cost.shape)[bad]

    def value(pairs) -> tuple[int, float]:
        costs = [float(cost[i, j]) for i, j in pairs]
        return sum(not np.isfinite(c) for c in costs), sum(c for c in costs if np.isfinite(c))

    if queries >= targets:
        options = [list(zip(p, range(targets), strict=True)) for p in itertools.permutations(range(queries), targets)]
    else:
        options = [list(zip(range(queries), p, strict=True)) for p in itertools.permutations(range(targets), queries)]
    best = min(value(pairs) for pairs in options)
    i, j = assign(cost)
    got = value(zip(i.tolist(), j.tolist(), strict=True))
    assert got[0] == best[0]
    assert got[1] == pytest.approx(best[1], abs=1e-5)


def test_a_broken_query_does_not_disturb_the_others():
    """With the largest float32 in its place, the differences between the others vanish in the solver's sums."""
    cost = np.array([[np.nan, np.nan, np.nan], [1.0, 2.0, 9.0], [2.0, 1.0, 9.0]], dtype=np.float32)
    i, j = assign(cost)
    assert dict(zip(i.tolist(), j.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}


@settings(max_examples=25, deadline=None)
@given(queries=st.integers(1, 8), targets=st.lists(st.integers(0, 10), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_the_contract_of_shapes(queries, targets, seed):
    indices = match(*batch(queries, targets, seed), seeded())
    assert len(indices) == len(targets)
    for (i, j), count in zip(indices, targets, strict=True):
        assert i.dtype == j.dtype == torch.int64
        assert len(i) == len(j) == min(queries, count)
        assert len(set(i.tolist())) == len(i)
        assert len(set(j.tolist())) == len(j)
        assert i.tolist() == sorted(i.tolist())
        assert all(0 <= q < queries for q in i.tolist())
        assert all(0 <= t < count for t in j.tolist())


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
def test_permuting_queries_permutes_the_matches(order, seed):
    class_logits, mask_logits, labels, masks = batch(6, [4], seed)
    ((i, j),) = match(class_logits, mask_logits, labels, masks, seeded())
    ((pi, pj),) = match(class_logits[:, order], mask_logits[:, order], labels, masks, seeded())
    assert {(order[a], b) for a, b in zip(pi.tolist(), pj.tolist(), strict=True)} == set(
        zip(i.tolist(), j.tolist(), strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_permuting_targets_permutes_the_matches(order, seed):
    class_logits, mask_logits, labels, masks = batch(6, [4], seed)
    ((i, j),) = match(class_logits, mask_logits, labels, masks, seeded())
    ((pi, pj),) = match(class_logits, mask_logits, [labels[0][list(order)]], [masks[0][list(order)]], seeded())
    assert {(a, order[b]) for a, b in zip(pi.tolist(), pj.tolist(), strict=True)} == set(
        zip(i.tolist(), j.tolist(), strict=True)
    )


def test_a_batch_equals_its_images_one_by_one():
    class_logits, mask_logits, labels, masks = batch(7, [3, 0, 5, 1])
    together = match(class_logits, mask_logits, labels, masks, seeded(3))
    generator = seeded(3)
    for n, (i, j) in enumerate(together):
        part = slice(n, n + 1)
        ((si, sj),) = match(class_logits[part], mask_logits[part], labels[part], masks[part], generator)
        assert torch.equal(i, si)
        assert torch.equal(j, sj)


def test_predictions_together_equal_each_alone():
    first, second = batch(7, [4], seed=1), batch(7, [4], seed=2)
    labels, masks = first[2][0], first[3][0]
    pairs = [(each[0][0], each[1][0]) for each in (first, second)]
    points = uniform_points(1, 64, seeded(), masks.device)
    together = matcher()(pairs, labels, masks, points)
    for pair, (i, j) in zip(pairs, together, strict=True):
        ((si, sj),) = matcher()([pair], labels, masks, points)
        assert torch.equal(i, si)
        assert torch.equal(j, sj)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (32, 48), (1, 1)], ids=str)
def test_masks_are_resized_as_interpolate_does(size):
    masks = torch.rand(3, 32, 48, generator=seeded()) > 0.5
    expected = torch.nn.functional.interpolate(masks[None].float(), size, mode="nearest")[0]
    assert torch.equal(nearest(masks, size).float(), expected)


def test_matching_on_masks_against_float64_numpy():
    (class_logits,), (mask_logits,), (labels,), (masks,) = batch(6, [4], seed=4)
    ((i, j),) = matcher()([(class_logits, mask_logits)], labels, masks.bool(), None)
    x, t = mask_logits.double().flatten(1).numpy(), masks[:, ::4, ::4].double().flatten(1).numpy()
    probability = torch.softmax(class_logits.double(), -1).numpy()
    cost = np.zeros((6, 4))
    for q, k in np.ndindex(6, 4):
        p = 1 / (1 + np.exp(-x[q]))
        cross_entropy = -(t[k] * np.log(p) + (1 - t[k]) * np.log(1 - p)).mean()
        dice = 1 - (2 * (p * t[k]).sum() + 1) / (p.sum() + t[k].sum() + 1)
        cost[q, k] = -2 * probability[q, labels[k]] + 5 * cross_entropy + 5 * dice
    best = min(sum(cost[q, k] for k, q in enumerate(order)) for order in itertools.permutations(range(6), 4))
    assert cost[i, j].sum() == pytest.approx(best, rel=1e-5)


def test_perfect_predictions_are_found():
    """Queries that predict a shuffled copy of the targets get exactly those."""
    labels = torch.tensor([0, 1, 2, 3])
    masks = torch.zeros(4, 32, 32)
    for n in range(4):
        masks[n, 8 * n : 8 * n + 8] = 1
    order = torch.tensor([2, 0, 3, 1])
    class_logits = 10 * torch.nn.functional.one_hot(labels[order], CLASSES + 1).float()[None]
    mask_logits = 20 * masks[order, ::4, ::4][None] - 10
    ((i, j),) = match(class_logits, mask_logits, [labels], [masks], seeded())
    assert torch.equal(order[i], j)


@pytest.mark.parametrize(
    ("weights", "winner"),
    [
        ({"class_weight": 1.0, "mask_weight": 0.0, "dice_weight": 0.0}, 0),
        ({"class_weight": 0.0, "mask_weight": 1.0, "dice_weight": 0.0}, 1),
        ({"class_weight": 0.0, "mask_weight": 0.0, "dice_weight": 1.0}, 1),
    ],
)
def test_each_weight_acts_on_its_own_cost(weights, winner):
    """Query 0 has the right class and the wrong mask, query 1 the reverse."""
    class_logits = torch.zeros(1, 2, CLASSES + 1)
    class_logits[0, 0, 3] = class_logits[0, 1, 4] = 10
    mask_logits = torch.stack([torch.full((8, 8), -5.0), torch.full((8, 8), 5.0)])[None]
    targets = [torch.tensor([3])], [torch.ones(1, 32, 32)]
    ((i, _),) = match(class_logits, mask_logits, *targets, seeded(), **weights)
    assert i.tolist() == [winner]


def test_autocast_changes_nothing():
    arguments = batch(6, [4, 2])
    plain = match(*arguments, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = match(*arguments, seeded())
    for (i, j), (mi, mj) in zip(plain, mixed, strict=True):
        assert torch.equal(i, mi)
        assert torch.equal(j, mj)


def test_non_finite_logits_are_matched_last():
    class_logits, mask_logits, labels, masks = batch(6, [4])
    mask_logits[0, 1] = float("nan")
    mask_logits[0, 4] = float("inf")
    ((i, _),) = match(class_logits, mask_logits, labels, masks, seeded())
    assert i.tolist() == [0, 2, 3, 5]
