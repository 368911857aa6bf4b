"""The sampling core against a loop in float64 NumPy that follows Deformable DETR, eq. 3, point by point."""

import numpy as np
import pytest
import torch

from mask2edge.train.model.deformable_attention import MultiscaleDeformableAttention, multiscale_deformable_attention
from mask2edge.train.model.pixel_decoder import pixel_centres


def by_hand(value, offsets, logits, reference, shapes, heads, points):
    """The definition, one sample at a time."""
    batch, queries = offsets.shape[:2]
    dim = value.shape[2] // heads
    value = value.reshape(batch, -1, heads, dim)
    offsets = offsets.reshape(batch, queries, heads, len(shapes), points, 2)
    weights = np.exp(logits.reshape(batch, queries, heads, -1))
    weights /= weights.sum(-1, keepdims=True)
    reference = np.broadcast_to(reference, (batch, queries, 2))
    output = np.zeros((batch, queries, heads, dim))
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    for n, q, m, level, p in np.ndindex(batch, queries, heads, len(shapes), points):
        height, width = shapes[level]
        x = reference[n, q, 0] * width + offsets[n, q, m, level, p, 0] - 0.5
        y = reference[n, q, 1] * height + offsets[n, q, m, level, p, 1] - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            if 0 <= column < width and 0 <= row < height:
                part = (1 - abs(x - column)) * (1 - abs(y - row))
                pixel = value[n, starts[level] + row * width + column, m]
                output[n, q, m] += weights[n, q, m, level * points + p] * part * pixel
    return output.reshape(batch, queries, heads * dim)


@pytest.mark.parametrize(
    ("batch", "queries", "heads", "dim", "points", "shapes", "reference_batch"),
    [
        (1, 5, 2, 4, 4, [(3, 5), (2, 2), (1, 1)], 1),
        (2, 7, 3, 8, 2, [(4, 6)], 1),
        (2, 3, 1, 16, 1, [(1, 7), (5, 1)], 2),
        (1, 1, 8, 2, 4, [(7, 3), (4, 2), (2, 1)], 1),
    ],
)
def test_sampling_equals_the_definition(batch, queries, heads, dim, points, shapes, reference_batch):
    rng = np.random.default_rng(queries)
    tokens = sum(h * w for h, w in shapes)
    value = rng.normal(size=(batch, tokens, heads * dim))
    offsets = rng.normal(scale=3, size=(batch, queries, heads * len(shapes) * points * 2))  # some fall outside
    logits = rng.normal(size=(batch, queries, heads * len(shapes) * points))
    reference = rng.uniform(size=(reference_batch, queries, 2))
    got = multiscale_deformable_attention(
        *(torch.from_numpy(a) for a in (value, offsets, logits, reference)), shapes, heads, points
    )
    expected = by_hand(value, offsets, logits, reference, shapes, heads, points)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-10)


def test_zero_offsets_at_pixel_centres_return_the_pixel_itself():
    shapes = [(3, 4)]
    value = torch.randn(1, 12, 8, dtype=torch.float64)
    got = multiscale_deformable_attention(
        value, torch.zeros(1, 12, 2 * 2 * 2).double(), torch.randn(1, 12, 2 * 2).double(),
        pixel_centres(shapes, value), shapes, num_heads=2, num_points=2,
    )  # fmt: skip
    torch.testing.assert_close(got, value)


def test_initial_offsets_point_in_even_directions():
    module = MultiscaleDeformableAttention(32, levels=3, num_heads=8, num_points=4)
    bias = module.sampling_offsets.bias.view(8, 3, 4, 2)
    assert torch.allclose(bias.abs().amax(-1), torch.arange(1.0, 5).expand(8, 3, 4))  # point p at p + 1 pixels
    assert torch.allclose(bias.sum(0), torch.zeros(3, 4, 2), atol=1e-5)
