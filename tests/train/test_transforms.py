"""Augmentation: image and labels move together, ignore stays ignore, and one seed gives one result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.train.data.transforms import (
    Augmentation,
    jitter_color,
    normalise,
    random_crop,
    random_scale,
    semantic_targets,
)

IGNORE = 255


def coded(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red and green say where a pixel comes from, and labels that say it in steps of 8 pixels."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, np.zeros_like(y)], -1).astype(np.uint8)
    return image, (10 * (y // 8) + x // 8).astype(np.uint8)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    crop=st.tuples(st.sampled_from([32, 64]), st.sampled_from([32, 64])),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.1, 0.2)]),
    area=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_any_image_gives_a_crop_with_its_own_classes(
    height: int, width: int, crop: tuple[int, int], scale: tuple[float, float], area: float, seed: int
) -> None:
    image, label_map = coded(height, width)
    augment = Augmentation(crop, scale, flip=True, color_jitter=True, max_category_area=area)
    new_image, new_labels = augment(image, label_map, IGNORE, generator(seed))
    assert (new_image.shape, new_image.dtype) == ((*crop, 3), np.uint8)
    assert (new_labels.shape, new_labels.dtype) == (crop, np.uint8)
    assert set(np.unique(new_labels)) <= {*np.unique(label_map), IGNORE}
    again = augment(image, label_map, IGNORE, generator(seed))
    np.testing.assert_array_equal(new_image, again[0])
    np.testing.assert_array_equal(new_labels, again[1])
    np.testing.assert_array_equal(image, coded(height, width)[0])  # the input, cached perhaps, is untouched


def test_another_seed_gives_another_result() -> None:
    image, label_map = coded(80, 80)
    augment = Augmentation((32, 32), (0.5, 2.0), True, True, 1.0)
    results = [augment(image, label_map, IGNORE, generator(seed))[0].tobytes() for seed in range(20)]
    assert len(set(results)) == 20


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_labels_move_together(flip: bool) -> None:
    image, label_map = coded(72, 80)
    augment = Augmentation((64, 64), (1.0, 1.0), flip, color_jitter=False, max_category_area=1.0)
    flipped = set()
    for seed in range(12):
        new_image, new_labels = augment(image, label_map, IGNORE, generator(seed))
        y, x = new_image[..., 0].astype(int), new_image[..., 1].astype(int)
        np.testing.assert_array_equal(new_labels, 10 * (y // 8) + x // 8)
        flipped.add(bool(x[0, 0] > x[0, 1]))
    assert flipped == ({True, False} if flip else {False})


def test_a_smaller_image_is_padded_with_the_mean_and_ignore() -> None:
    image, label_map = coded(20, 24)
    augment = Augmentation((32, 64), (1.0, 1.0), False, False, 1.0, fill=(127.5, 116.28, 103.53))
    new_image, new_labels = augment(image, label_map, IGNORE, generator())
    np.testing.assert_array_equal(new_image[:20, :24], image)
    np.testing.assert_array_equal(new_labels[:20, :24], label_map)
    outside = np.ones((32, 64), bool)
    outside[:20, :24] = False
    assert (new_labels[outside] == IGNORE).all()
    padding = normalise(new_image, (127.5, 116.28, 103.53), (58.0, 57.0, 57.0))[:, outside]
    assert np.abs(padding).max() <= 0.5 / 57 + 1e-6  # zero but for rounding to a whole colour


def test_the_padding_keeps_the_mean_under_color_jitter() -> None:
    image, label_map = coded(20, 24)
    augment = Augmentation((32, 64), (1.0, 1.0), False, True, 1.0, fill=(100.0, 110.0, 120.0))
    for seed in range(8):
        new_image, _ = augment(image, label_map, IGNORE, generator(seed))
        assert (new_image[20:] == (100, 110, 120)).all()


def test_scale_draws_its_whole_range() -> None:
    image, label_map = coded(100, 50)
    heights = []
    for seed in range(200):
        scaled, labels = random_scale(image, label_map, (0.5, 2.0), generator(seed))
        assert scaled.shape[:2] == labels.shape
        assert abs(scaled.shape[0] - 2 * scaled.shape[1]) <= 2  # the ratio is kept
        heights.append(scaled.shape[0])
    assert 50 <= min(heights) < 60
    assert 190 < max(heights) <= 200


def test_a_crop_of_one_category_is_drawn_again() -> None:
    label_map = np.zeros((64, 256), np.uint8)
    label_map[:, 224:] = 1  # a crop at random holds both categories in a tenth of the cases
    label_map[:32] = IGNORE  # half of every crop, which must not count
    image = np.zeros((64, 256, 3), np.uint8)

    def mixed(area: float) -> float:
        hits = 0
        for seed in range(200):
            _, labels, _ = random_crop(image, label_map, (64, 32), area, IGNORE, (0, 0, 0), generator(seed))
            hits += set(np.unique(labels)) == {0, 1, IGNORE}
        return hits / 200

    assert mixed(1.0) < 0.25
    assert mixed(0.99) > 0.6


def test_nothing_but_ignore_is_no_endless_search() -> None:
    label_map = np.full((64, 64), IGNORE, np.uint8)
    _, labels, _ = random_crop(
        np.zeros((64, 64, 3), np.uint8), label_map, (32, 32), 0.5, IGNORE, (0, 0, 0), generator()
    )
    assert (labels == IGNORE).all()


def test_color_jitter_stays_within_its_ranges() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)  # no saturation: hue and saturation leave it alone
    values = [jitter_color(grey, generator(seed)) for seed in range(400)]
    assert all((value == value[0, 0, 0]).all() for value in values)
    brightness = [int(value[0, 0, 0]) for value in values]
    assert min(brightness) >= 34  # (100 - 32) * 0.5
    assert max(brightness) <= 198  # (100 + 32) * 1.5
    assert sum(value == 100 for value in brightness) > 50  # a quarter has neither
    assert len(set(brightness)) > 50


def test_normalise_is_channel_wise_and_channel_first() -> None:
    image = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # [1,2,3]
    pixels = normalise(image, (10.0, 10.0, 10.0), (1.0, 2.0, 4.0))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, [[[0, 30]], [[5, 20]], [[5, 12.5]]])


def test_targets_are_one_mask_for_each_class_present() -> None:
    label_map = np.array([[2, 2, IGNORE], [0, 2, 0]], np.uint8)
    labels, masks = semantic_targets(label_map, IGNORE)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2]
    assert masks.dtype == bool
    assert masks.astype(int).tolist() == [[[0, 0, 0], [1, 0, 1]], [[1, 1, 0], [0, 1, 0]]]


def test_targets_of_an_image_without_labels_are_empty() -> None:
    labels, masks = semantic_targets(np.full((4, 6), IGNORE, np.uint8), IGNORE)
    assert (labels.shape, masks.shape) == ((0,), (0, 4, 6))
