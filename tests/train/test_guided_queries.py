"""Guided queries: which pixels are chosen, what becomes of them, and which pixel of a target the loss asks for."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.config import ModelConfig
from mask2edge.train.loss import SetCriterion
from mask2edge.train.loss.proposals import focal_loss, match_pixels, proposal_loss
from mask2edge.train.model.guided_queries import GuidedQueries, best_pixels
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.model.position import place_code

CONFIG = ModelConfig(
    backbone="efficientnet-lite0", num_classes=3, num_queries=7, hidden_dim=32, encoder_layers=1, encoder_ffn=32,
    decoder_layers=2, decoder_ffn=32, query_features="guided",
)  # fmt: skip


def discs(*circles, size=64):
    """Of (y, x, radius), masks bool [T, size, size]."""
    grid = torch.arange(size) + 0.5
    return torch.stack([(grid[:, None] - y) ** 2 + (grid[None] - x) ** 2 <= radius**2 for y, x, radius in circles])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), classes=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9),
    part=st.floats(0, 1),
)  # fmt: skip
def test_peaks_come_first_and_the_best_before_others(seed, classes, height, width, part):
    logits = torch.randn(1, classes, height, width, generator=torch.Generator().manual_seed(seed))
    count = max(1, round(part * height * width))
    values = logits[0].numpy()
    ranked = []
    for y in range(height):
        for x in range(width):
            around = values[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max((1, 2))
            peaks = values[:, y, x][values[:, y, x] >= around]
            best = max(peaks) if len(peaks) else max(values[:, y, x])
            ranked.append((len(peaks) == 0, -best, y * width + x))
    assert best_pixels(logits, count)[0].tolist() == [index for _, _, index in sorted(ranked)[:count]]


def test_queries_are_made_of_their_pixels_and_places():
    torch.manual_seed(0)
    guided = GuidedQueries(6, 2, 32).double()
    pixels = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    (features, positions, centres), logits = guided(pixels)
    assert torch.equal(logits, guided.scores(pixels))
    code = place_code(5, 7, 32, dtype=torch.float64)[0]
    for n, chosen in enumerate(best_pixels(logits, 6)):
        for query, (row, column) in enumerate((int(i) // 7, int(i) % 7) for i in chosen):
            torch.testing.assert_close(features[n, query], guided.features(pixels[n, :, row, column]))
            torch.testing.assert_close(positions[n, query], guided.positions(code[:, row, column]))
            assert centres[n, query].tolist() == [(8 * row + 4) / 64, (8 * column + 4) / 64]


def test_an_untrained_score_is_low():
    torch.manual_seed(0)
    *_, logits = GuidedQueries(4, 2, 32)(torch.randn(1, 32, 16, 16))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)


def test_an_image_with_fewer_pixels_than_queries_has_its_last_pixel_again():
    logits = torch.tensor([[[[0.0, 3.0], [2.0, 1.0]]]])
    assert best_pixels(logits, 7).tolist() == [[1, 2, 3, 0, 3, 3, 3]]


def test_the_first_prediction_is_of_the_chosen_pixels():
    torch.manual_seed(0)
    model = build_model(CONFIG).double().eval()
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    seen = {}
    model.pixel_decoder.register_forward_hook(lambda module, inputs, outputs: seen.update(maps=outputs))
    with torch.no_grad():
        outputs = model(pixels)
        fine, levels = seen["maps"]
        first, logits = model.mask_decoder.guided_queries(levels[-1])
        expected = model.mask_decoder.predict(first.features, fine, first.centres)
    assert torch.equal(outputs["proposal_logits"], logits)
    assert set(outputs["auxiliary"][0]) == {"class_logits", "mask_logits"}
    for name, value in outputs["auxiliary"][0].items():
        torch.testing.assert_close(value, expected[name])


def test_a_target_is_asked_for_at_its_centre():
    masks = discs((20, 12, 11), (44, 52, 9))
    targets, pixels = match_pixels(torch.zeros(2, 8, 8), torch.tensor([0, 1]), masks)
    assert targets.tolist() == [0, 1]
    assert [(pixel // 8, pixel % 8) for pixel in pixels.tolist()] == [(2, 1), (5, 6)]


def test_a_score_moves_the_pixel_but_not_out_of_its_target():
    masks = discs((28, 28, 20))
    logits = torch.full((1, 8, 8), -5.0)
    logits[0, 4, 5], logits[0, 7, 7] = 5.0, 9.0
    _, pixels = match_pixels(logits, torch.tensor([0]), masks)
    assert pixels.tolist() == [4 * 8 + 5]


@settings(max_examples=40, deadline=None)
@given(
    circles=st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(1, 12)), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_pixels_are_inside_and_each_is_asked_for_once(circles, seed):
    masks = discs(*circles)
    labels = torch.arange(len(circles)) % 3
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    targets, pixels = match_pixels(logits, labels, masks)
    assert len(set(pixels.tolist())) == len(pixels)
    covered = masks.reshape(-1, 8, 8, 8, 8).float().mean((2, 4)).flatten(1)  # [T, 64]
    for target, pixel in zip(targets.tolist(), pixels.tolist(), strict=True):
        assert covered[target, pixel] > 0
        assert covered[target, pixel] >= min(0.5, covered[target].max().item())
    # a target is left out only where others take all its pixels
    for left in set(range(len(circles))) - set(targets.tolist()):
        inside = (covered[left] >= min(0.5, covered[left].max().item())) & (covered[left] > 0)
        assert set(inside.nonzero()[:, 0].tolist()) <= set(pixels.tolist())


def test_targets_that_are_empty_or_share_their_only_pixel_are_left_out():
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[1, 17:19, 9:11] = masks[2, 20:22, 12:14] = True  # two in the pixel of row 2, column 1
    targets, pixels = match_pixels(torch.zeros(1, 8, 8), torch.tensor([0, 0, 0]), masks)
    assert len(targets) == 1
    assert pixels.tolist() == [17]
    assert targets[0] in (1, 2)


def test_the_focal_loss_is_its_formula():
    random = np.random.default_rng(0)
    logits, wanted = random.normal(0, 3, (2, 50)), random.integers(0, 2, (2, 50)).astype(float)
    likely = np.where(wanted == 1, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)))
    weights = np.where(wanted == 1, 0.25, 0.75)
    expected = (-weights * (1 - likely) ** 2 * np.log(likely)).sum()
    found = focal_loss(torch.from_numpy(logits), torch.from_numpy(wanted)).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_loss_teaches_one_pixel_of_each_target():
    """Scores alone, by gradient descent: peaks where the targets are, of their class, and nowhere else."""
    first, second = discs((20, 12, 11), (44, 52, 9)), discs((32, 32, 14))
    labels = [torch.tensor([0, 1]), torch.tensor([1])]
    logits = torch.full((2, 2, 8, 8), -4.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        proposal_loss(logits, labels, torch.cat([first, second]), 3.0).backward()
        optimizer.step()
    found = (logits > 0).nonzero().tolist()
    assert found[:2] == [[0, 0, 2, 1], [0, 1, 5, 6]]
    assert [place[:2] for place in found[2:]] == [[1, 1]]
    assert best_pixels(logits.detach(), 2)[0].sort().values.tolist() == [2 * 8 + 1, 5 * 8 + 6]


def test_the_criterion_weighs_proposals_and_divides_by_the_targets():
    torch.manual_seed(0)
    model = build_model(CONFIG)
    masks = discs((20, 12, 11), (44, 52, 9))
    targets = [{"labels": torch.tensor([0, 2]), "masks": masks}]
    outputs = model(torch.randn(1, 3, 64, 64))
    criterion = SetCriterion(3, num_points=32, proposal_weight=7.0)
    losses = criterion(outputs, targets, 2.0, [torch.Generator().manual_seed(0)])
    expected = proposal_loss(outputs["proposal_logits"], [targets[0]["labels"]], masks, 2.0)
    torch.testing.assert_close(losses["proposal"], expected)
    without = {name: value for name, value in losses.items() if name != "proposal"}
    torch.testing.assert_close(criterion.total(losses), criterion.total(without) + 7.0 * expected)
    criterion.total(losses).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert model.mask_decoder.guided_queries.scores[0].weight.grad.any()


def test_without_targets_every_score_is_to_be_low():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = proposal_loss(logits, [torch.zeros(0, dtype=torch.int64)], torch.zeros(0, 32, 32, dtype=torch.bool), 1.0)
    loss.backward()
    assert (logits.grad > 0).all()


def test_learned_queries_have_no_proposals():
    outputs = build_model(dataclasses.replace(CONFIG, query_features="supervised"))(torch.zeros(1, 3, 64, 64))
    assert "proposal_logits" not in outputs


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_a_window_is_a_quadratic_around_the_moved_centre(height, width, seed):
    torch.manual_seed(seed)
    guided = GuidedQueries(3, 2, 32).double()
    queries, centres = torch.randn(1, 3, 32, dtype=torch.float64), torch.rand(1, 3, 2, dtype=torch.float64)
    rows, columns = guided.windows(queries, centres, height, width)
    found = (rows[..., None] + columns[:, :, None])[0].detach().numpy()  # [3, height, width]
    values = guided.window(queries)[0].detach().numpy()  # [3, 4]
    y, x = np.mgrid[:height, :width] * 4 + 2.0  # input pixels
    for query, (move_y, move_x, steep_y, steep_x) in enumerate(values):
        center_y, center_x = centres[0, query].numpy() + np.array([move_y, move_x])
        expected = -np.exp(steep_y) * (y / 64 - center_y) ** 2 - np.exp(steep_x) * (x / 64 - center_x) ** 2
        np.testing.assert_allclose(found[query], expected, atol=1e-12)


def test_a_window_is_finite_in_half_precision():
    guided = GuidedQueries(1, 2, 32)
    with torch.no_grad():
        guided.window.bias[2:] = 100.0
    rows, columns = guided.windows(torch.zeros(1, 1, 32), torch.zeros(1, 1, 2), 4096, 4096)
    assert (rows[..., -1] + columns[..., -1]).half().isfinite().all()
    assert (rows <= 0).all()


def test_an_untrained_window_takes_off_little_at_a_nucleus_and_much_beyond():
    torch.manual_seed(0)
    rows, _ = GuidedQueries(1, 2, 32).windows(torch.randn(1, 1, 32), torch.full((1, 1, 2), 2.0), 64, 64)
    assert rows[0, 0, 32 + 4].item() > -1  # 16 pixels away
    assert rows[0, 0, 32 + 24].item() < -10  # 96 pixels away
