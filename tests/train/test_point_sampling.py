"""Point sampling against a NumPy bilinear read, and what the importance sampling promises.

pytest tests/train/test_point_sampling.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.loss import native_masks
from mask2edge.train.loss.point_sampling import (
    sample_masks,
    sample_points,
    uncertain_points,
    uniform_points,
)
from mask2edge.trt_plugins import TRAINING_LIBRARY_VARIABLE, training_library, why_no_training_library

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """One float64 read at (x, y) in [0, 1]; pixel centres at half-integers, zero outside."""
    height, width = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(np.floor(column)), int(np.floor(row))
    value = 0.0
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < height and 0 <= c < width:
                value += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_sample_points_is_a_bilinear_read(height, width, channels, points, seed):
    maps = torch.randn(2, channels, height, width, generator=seeded(seed), dtype=torch.float64)
    coordinates = torch.tensor([points, points[::-1]], dtype=torch.float64)  # [2, P, 2]
    got = sample_points(maps, coordinates)
    assert got.shape == (2, channels, len(points))
    for n in range(2):
        for c in range(channels):
            expected = [bilinear(maps[n, c].numpy(), *coordinates[n, p].tolist()) for p in range(len(points))]
            np.testing.assert_allclose(got[n, c].numpy(), expected, atol=1e-12)


def test_pixel_centres_give_the_pixels_and_x_comes_first():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    centres = torch.tensor([[(c + 0.5) / 4, (r + 0.5) / 3] for r in range(3) for c in range(4)])[None]
    torch.testing.assert_close(sample_points(image, centres).reshape(3, 4), image[0, 0])


def test_resolutions_are_read_at_the_same_place():
    """A plane x + y looks the same at stride 1 and stride 4, away from the border's fade."""

    def plane(size: int) -> torch.Tensor:
        axis = (torch.arange(size) + 0.5) / size
        return (axis[None, :] + axis[:, None])[None, None]

    points = uniform_points(1, 100, seeded(), CPU) * 0.7 + 0.15
    torch.testing.assert_close(sample_points(plane(64), points), sample_points(plane(16), points), atol=1e-5, rtol=0)


def test_no_maps_give_no_points():
    points = uncertain_points(torch.zeros(0, 1, 8, 8), 16, 3.0, 0.75, [(seeded(), 0)])
    assert points.shape == (0, 16, 2)
    assert sample_points(torch.zeros(0, 1, 8, 8), points).shape == (0, 1, 16)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    points=st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=6),
    kind=st.sampled_from([torch.bool, torch.uint8, torch.float32, torch.float64]),
    shared=st.booleans(),
    native=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sample_masks_reads_the_chosen_masks_of_any_type(height, width, points, kind, shared, native, seed):
    masks = (torch.rand(4, height, width, generator=seeded(seed)) > 0.5).to(kind)
    which = torch.tensor([2, 0, 2])
    coordinates = torch.tensor([points] if shared else [points, points[::-1], points])  # [1 or 3, P, 2]
    with pytest.MonkeyPatch.context() as patch:
        if not native:  # as where there is no compiler
            patch.setenv(TRAINING_LIBRARY_VARIABLE, "/nowhere")
        got = sample_masks(masks, which, coordinates)
    assert got.dtype == torch.float32
    expected = sample_points(masks[which][:, None].float(), coordinates.expand(3, -1, -1)).squeeze(1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(training_library() is None, reason=why_no_training_library())
def test_native_reads_of_masks_that_are_not_there_and_of_places_outside():
    masks = torch.ones(2, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected masks 0 to 1, got 2"):
        native_masks.sample_masks(masks, torch.tensor([0, 2]), torch.rand(2, 3, 2))
    with pytest.raises(ValueError, match=r"expected coordinates of 1 or 3 masks, got \[2, 3, 2\]"):
        native_masks.sample_masks(masks, torch.tensor([0, 1, 1]), torch.rand(2, 3, 2))
    places = torch.tensor([[[float("nan"), 0.5], [1e30, 0.5], [0.5, -1e30], [0.5, 0.5]]])
    assert native_masks.sample_masks(masks, torch.tensor([1]), places).tolist() == [[0, 0, 0, 1]]
    assert native_masks.applies(masks, torch.tensor([0]), places)
    assert not native_masks.applies(masks.float(), torch.tensor([0]), places)


def test_each_generator_draws_for_its_own_masks():
    """What an image's masks get does not depend on the other images'."""
    logits = torch.randn(5, 1, 12, 12, generator=seeded(1))
    together = uncertain_points(logits, 40, 3.0, 0.75, [(seeded(2), 2), (seeded(3), 0), (seeded(4), 3)])
    first = uncertain_points(logits[:2], 40, 3.0, 0.75, [(seeded(2), 2)])
    last = uncertain_points(logits[2:], 40, 3.0, 0.75, [(seeded(4), 3)])
    assert torch.equal(together, torch.cat([first, last]))


def test_importance_points_lie_where_the_prediction_is_unsure():
    """A ramp that crosses zero at x = 0.5: keeping 0.75 P of 3 P candidates means a quarter of the width around it."""
    size, num_points = 64, 4000
    ramp = ((torch.arange(size) + 0.5) / size - 0.5).expand(2, 1, size, size).contiguous()
    points = uncertain_points(ramp, num_points, 3.0, 0.75, [(seeded(), 2)])
    assert points.shape == (2, num_points, 2)
    important, uniform = points[:, :3000], points[:, 3000:, 0]
    # the border's fade to zero makes half a pixel at either side look unsure as well
    inside = (important[..., 0] - 0.5).abs() < 0.135
    border = ((important - 0.5).abs() > 0.5 - 0.5 / size).any(-1)
    assert (inside | border).all()
    assert inside.float().mean() > 0.9
    assert ((uniform - 0.5).abs() > 0.135).float().mean() > 0.6  # 0.73 expected of a uniform draw


@pytest.mark.parametrize(("ratio", "important"), [(0.0, 0), (0.5, 32), (0.75, 48), (1.0, 64)])
def test_the_kept_candidates_are_the_least_certain(ratio, important):
    logits = torch.randn(3, 1, 12, 12, generator=seeded(1))
    points = uncertain_points(logits, 64, 3.0, ratio, [(seeded(2), 3)])
    candidates = torch.rand(3, 192, 2, generator=seeded(2))  # the same stream's first draw
    certainty = sample_points(logits, candidates).squeeze(1).abs()
    limit = certainty.sort(dim=1).values[:, :important]
    kept = sample_points(logits, points[:, :important]).squeeze(1).abs().sort(dim=1).values
    torch.testing.assert_close(kept, limit)
    assert points.shape == (3, 64, 2)
    assert ((points >= 0) & (points < 1)).all()


def test_the_generator_alone_decides():
    logits = torch.randn(2, 1, 8, 8, generator=seeded())
    generator = seeded(5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    state = generator.get_state()
    first = uncertain_points(logits, 32, 3.0, 0.75, [(generator, 2)])
    second = uncertain_points(logits, 32, 3.0, 0.75, [(generator, 2)])
    assert torch.equal(torch.get_rng_state(), before), "the global stream was used"
    assert not torch.equal(first, second)
    torch.manual_seed(123)
    generator.set_state(state)
    assert torch.equal(uncertain_points(logits, 32, 3.0, 0.75, [(generator, 2)]), first)
