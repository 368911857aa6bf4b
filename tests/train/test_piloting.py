"""Mask-piloted training: whose masks lead, what noise does to them, and that learned queries never see them."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.config import ModelConfig
from mask2edge.train.loss import SetCriterion
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.model.piloting import Pilots, gather_pilots

CONFIG = ModelConfig(
    backbone="efficientnet-lite0", num_classes=3, num_queries=5, hidden_dim=32, encoder_layers=1, encoder_ffn=32,
    decoder_layers=3, decoder_ffn=32,
)  # fmt: skip


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def squares(*corners, size=64, side=16):
    masks = torch.zeros(len(corners), size, size, dtype=torch.bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return {"labels": torch.arange(len(corners)) % 3, "masks": masks}


def test_fillers_make_images_equal_in_number():
    first, second = squares((0, 0), (16, 32)), squares((40, 8))
    pilots = gather_pilots([first, second], generators(2))
    assert pilots.masks.shape == (2, 2, 64, 64)
    assert pilots.labels.tolist() == [[0, 1], [0, 0]]
    assert torch.equal(pilots.masks[0], first["masks"])
    assert torch.equal(pilots.masks[1, 0], second["masks"][0])
    assert not pilots.masks[1, 1].any()


def test_images_without_targets_have_fillers_alone():
    none = gather_pilots([squares(), squares()], generators(2))
    assert (none.masks.shape, none.labels.tolist()) == ((2, 1, 64, 64), [[0], [0]])
    assert not none.masks.any()
    one = gather_pilots([squares(), squares((0, 0))], generators(2))
    assert one.masks.any((2, 3)).tolist() == [[False], [True]]


@settings(max_examples=30, deadline=None)
@given(y=st.integers(0, 48), x=st.integers(0, 48), seed=st.integers(0, 2**62))
def test_noise_stays_at_the_edge(y, x, seed):
    """Every token that is attended touches one that the mask half covers, or the most covered one."""
    target = squares((y, x))
    pilots = Pilots(target["labels"][None], target["masks"][None], (seed,))
    attended = pilots.attended((8, 8))[0, 0].reshape(8, 8)
    assert set(attended.unique().tolist()) <= {-1.0, 1.0}
    covered = target["masks"][0].reshape(8, 8, 8, 8).float().mean((1, 3))  # [8, 8]
    inside = covered >= min(0.5, covered.max().item())
    for row, column in (attended > 0).nonzero().tolist():
        assert inside[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()


def test_noise_takes_the_parts_that_are_stated():
    target = squares(*[(8, 8)] * 400, side=48)  # 6x6 tokens of 8x8, with 28 around them
    attended = Pilots(target["labels"][None], target["masks"][None], (3,)).attended((8, 8))[0] > 0
    attended = attended.reshape(400, 8, 8)
    assert attended[:, 1:-1, 1:-1].float().mean().item() == pytest.approx(0.8, abs=0.02)
    ring = attended.float().sum() - attended[:, 1:-1, 1:-1].float().sum()
    assert ring.item() / (400 * 28) == pytest.approx(0.3, abs=0.02)


def test_a_mask_smaller_than_a_token_still_leads():
    target = squares((21, 35), side=2)
    seen = [Pilots(target["labels"][None], target["masks"][None], (seed,)).attended((2, 2)) for seed in range(20)]
    own = torch.stack(seen)[:, 0, 0, 1]  # the token of the upper right quarter
    assert (own > 0).sum() > 10


def test_an_image_has_the_same_noise_in_any_batch():
    first, second = squares((0, 0), (16, 32)), squares((40, 8))
    both = gather_pilots([first, second], generators(2))
    alone = gather_pilots([first], generators(1))
    assert torch.equal(alone.attended((8, 8))[0], both.attended((8, 8))[0])


@pytest.mark.parametrize("cross_attention", ["masked", "plain", "mask-pooling"])
def test_learned_queries_do_not_see_the_pilots(cross_attention):
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(CONFIG, cross_attention=cross_attention)).eval()
    pixels = torch.randn(2, 3, 64, 64)
    pilots = gather_pilots([squares((0, 0), (16, 32)), squares((40, 8))], generators(2))
    with torch.no_grad():
        alone, piloted = model(pixels), model(pixels, pilots)
    assert torch.equal(alone["mask_logits"], piloted["mask_logits"])
    assert "piloted" not in alone
    assert [tuple(masks.shape) for masks in piloted["piloted"]] == [(2, 2, 16, 16)] * 3


def test_every_pilot_has_its_target_and_fillers_none():
    """The terms of perfect masks are small (points fall on edges too), whatever the fillers hold."""
    targets = [squares((0, 0), (16, 32)), squares((40, 8))]
    pilots = gather_pilots(targets, generators(2))
    outputs = {"class_logits": torch.zeros(2, 5, 4), "mask_logits": torch.zeros(2, 5, 64, 64)}

    def terms(masks, weight=1.0):
        criterion = SetCriterion(3, num_points=256, pilot_weight=weight, generator=generators(1)[0])
        losses = criterion({**outputs, "piloted": [masks]}, targets)
        return {name: value.item() for name, value in losses.items() if "piloted" in name}

    perfect = pilots.masks.float() * 80 - 40
    perfect[1, 1] = 7.0  # the filler
    assert terms(perfect)["dice_piloted_0"] < 0.1
    swapped = perfect.clone()
    swapped[0] = perfect[0].flip(0)
    once, twice = terms(swapped), terms(swapped, weight=2.0)
    assert once["dice_piloted_0"] > 0.5
    assert twice == pytest.approx({name: 2 * value for name, value in once.items()}, rel=1e-5)


def test_pilots_teach_the_whole_network():
    torch.manual_seed(0)
    model = build_model(CONFIG)
    targets = [squares((0, 0), (16, 32)), squares((40, 8))]
    outputs = model(torch.randn(2, 3, 64, 64), gather_pilots(targets, generators(2)))
    losses = SetCriterion(3, num_points=64, pilot_weight=1.0, generator=generators(1)[0])(outputs, targets)
    sum(value for name, value in losses.items() if "piloted" in name).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # what pilots do not have: a class to predict, learned features and places
    assert without <= {
        "mask_decoder.class_head.weight", "mask_decoder.class_head.bias", "mask_decoder.query_features",
        "mask_decoder.query_positions", "pixel_decoder.level_embed",
    }  # fmt: skip
