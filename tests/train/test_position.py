"""Place codes: waves averaged over each pixel, alike where places are near, and known to queries and mask features."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.config import ModelConfig
from mask2edge.train.model.mask2former import build_model
from mask2edge.train.model.position import place_code

SMALL = ModelConfig(
    backbone="efficientnet-lite0", num_classes=2, num_queries=9, hidden_dim=32, encoder_layers=1, encoder_ffn=32,
    decoder_layers=1, decoder_ffn=32,
)  # fmt: skip


@pytest.mark.parametrize(("height", "width", "dim"), [(5, 7, 16), (1, 3, 32), (8, 8, 4)])
def test_a_code_is_the_mean_of_the_waves_over_a_pixel(height, width, dim):
    """By quadrature: 1,000 places in each pixel."""
    turns = 0.5 * 32 ** (np.arange(dim // 4) / max(1, dim // 4 - 1))

    def means(length):
        places = (np.arange(1000 * length) + 0.5) / (1000 * length)
        angles = 2 * np.pi * places[:, None] * turns  # [1000*length, dim/4]
        return np.concatenate([np.sin(angles), np.cos(angles)], 1).reshape(length, 1000, dim // 2).mean(1)

    rows, columns = means(height), means(width)
    expected = np.concatenate(
        [np.repeat(rows[:, None], width, axis=1), np.repeat(columns[None], height, axis=0)], 2
    ).transpose(2, 0, 1)
    found = place_code(height, width, dim, dtype=torch.float64)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(row=st.integers(8, 31), column=st.integers(8, 31))
def test_nearer_pixels_are_more_alike(row, column):
    code = place_code(40, 40, 128, dtype=torch.float64)[0]  # [128, 40, 40]
    likeness = (code[:, row, column, None, None] * code).sum(0)  # [40, 40]
    for step_y, step_x in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        along = [likeness[row + step_y * n, column + step_x * n].item() for n in (0, 1, 2, 3, 5, 8)]
        assert along == sorted(along, reverse=True)
        assert along[0] - along[1] > 5


def test_the_code_of_a_half_type_is_rounded_once():
    half, exact = (place_code(16, 16, 32, dtype=dtype) for dtype in (torch.bfloat16, torch.float64))
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() < 2**-8


@pytest.mark.parametrize("place_codes", [False, True])
def test_levels_and_mask_features_know_their_place(place_codes):
    """The same picture everywhere: without codes all features away from the edge are alike."""
    torch.manual_seed(0)
    decoder = build_model(dataclasses.replace(SMALL, place_codes=place_codes)).pixel_decoder.double().eval()
    maps = [
        torch.ones(1, c, 96 // s, 96 // s).double() for c, s in zip((24, 40, 112, 320), (4, 8, 16, 32), strict=True)
    ]
    with torch.no_grad():
        mask_features, levels = decoder(maps)
    inner = mask_features[0, :, 8:-8, 8:-8].flatten(1)  # [32, 64]
    assert (inner.std(1).max() > 0.1) == place_codes
    assert (levels[2][0, :, 4:-4, 4:-4].flatten(1).std(1).max() > 0.1) == place_codes
