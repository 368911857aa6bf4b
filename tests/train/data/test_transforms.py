"""Augmentation: image and segments move together, no segment is invented, and one seed gives one result."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime.spec import Label
from mask2edge.train.config import DataConfig
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.data.transforms import (
    Augmentation,
    build_augmentation,
    jitter_color,
    normalise,
    random_crop,
    resized,
    targets,
)


def coded(height: int, width: int) -> tuple[np.ndarray, Annotation]:
    """An image whose red and green say where a pixel comes from; segments on two planes that say it in steps.

    Plane 0: columns of 8 pixels; plane 1: rows of 8 pixels. Segments are of class 0 and 1, every third one is a crowd.
    """
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, np.zeros_like(y)], -1).astype(np.uint8)
    columns, rows = x // 8, y // 8
    planes = np.stack([columns + 1, rows + columns.max() + 2]).astype(np.int32)
    count = int(planes.max())
    label_ids = (np.arange(count) > columns.max()).astype(np.int64)
    return image, Annotation(planes, label_ids, np.arange(count) % 3 == 2)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    crop=st.tuples(st.sampled_from([32, 64]), st.sampled_from([32, 64])),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.1, 0.2)]),
    scale_to=st.sampled_from(["image", "shortest_edge", "crop"]),
    area=st.sampled_from([1.0, 0.5]),
    microscopy=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_image_gives_a_crop_with_its_own_segments(
    height: int,
    width: int,
    crop: tuple[int, int],
    scale: tuple[float, float],
    scale_to: str,
    area: float,
    microscopy: bool,
    seed: int,
) -> None:
    image, annotation = coded(height, width)
    augment = Augmentation(
        crop, scale, True, True, area, scale_to=scale_to, edges=(48, 300), avoid_empty=True,
        vertical_flip=microscopy, rotate=microscopy, things=frozenset({1}),
    )  # fmt: skip
    new_image, new = augment(image, annotation, generator(seed))
    assert (new_image.shape, new_image.dtype) == ((*crop, 3), np.uint8)
    assert (new.planes.shape, new.planes.dtype) == ((2, *crop), np.int32)
    assert set(np.unique(new.planes)) <= {*np.unique(annotation.planes), 0}
    np.testing.assert_array_equal(new.label_ids, annotation.label_ids)
    again = augment(image, annotation, generator(seed))
    np.testing.assert_array_equal(new_image, again[0])
    np.testing.assert_array_equal(new.planes, again[1].planes)
    np.testing.assert_array_equal(image, coded(height, width)[0])  # the input, cached perhaps, is untouched
    np.testing.assert_array_equal(annotation.planes, coded(height, width)[1].planes)


def test_another_seed_gives_another_result() -> None:
    image, annotation = coded(80, 80)
    augment = Augmentation((32, 32), (0.5, 2.0), True, True, 1.0)
    results = [augment(image, annotation, generator(seed))[0].tobytes() for seed in range(20)]
    assert len(set(results)) == 20


@pytest.mark.parametrize(("flip", "vertical", "rotate"), list(itertools.product([False, True], repeat=3)))
def test_image_and_segments_move_together(flip: bool, vertical: bool, rotate: bool) -> None:
    image, annotation = coded(72, 80)
    augment = Augmentation((64, 64), (1.0, 1.0), flip, False, 1.0, vertical_flip=vertical, rotate=rotate)
    ways = set()
    for seed in range(60):
        new_image, new = augment(image, annotation, generator(seed))
        y, x = new_image[..., 0].astype(int), new_image[..., 1].astype(int)
        np.testing.assert_array_equal(new.planes[0], x // 8 + 1)
        np.testing.assert_array_equal(new.planes[1], y // 8 + 11)
        ways.add((y[1, 0] - y[0, 0], y[0, 1] - y[0, 0], x[1, 0] - x[0, 0], x[0, 1] - x[0, 0]))
    # every pose of the dihedral group is reached by turns and one mirror; without turns, the mirrors asked for
    assert len(ways) == ((8 if flip or vertical else 4) if rotate else (1 + flip) * (1 + vertical))


def test_a_smaller_image_is_padded_with_the_mean_and_no_segment() -> None:
    image, annotation = coded(20, 24)
    augment = Augmentation((32, 64), (1.0, 1.0), False, False, 1.0, fill=(127.5, 116.28, 103.53))
    new_image, new = augment(image, annotation, generator())
    np.testing.assert_array_equal(new_image[:20, :24], image)
    np.testing.assert_array_equal(new.planes[:, :20, :24], annotation.planes)
    outside = np.ones((32, 64), bool)
    outside[:20, :24] = False
    assert not new.planes[:, outside].any()
    padding = normalise(new_image, (127.5, 116.28, 103.53), (58.0, 57.0, 57.0))[:, outside]
    assert np.abs(padding).max() <= 0.5 / 57 + 1e-6  # zero but for rounding to a whole colour


def test_the_padding_keeps_the_mean_under_color_jitter() -> None:
    image, annotation = coded(20, 24)
    augment = Augmentation((32, 64), (1.0, 1.0), False, True, 1.0, fill=(100.0, 110.0, 120.0))
    for seed in range(8):
        new_image, _ = augment(image, annotation, generator(seed))
        assert (new_image[20:] == (100, 110, 120)).all()


@pytest.mark.parametrize(
    ("scale_to", "low", "high"),
    [
        ("image", 50, 200),  # 0.5 to 2 times the height of 100
        ("shortest_edge", 64, 256),  # the width, 50, becomes 0.5 to 2 times 64; the height is twice as much
        ("crop", 48, 192),  # 100 x 50 fits into 96 x 160 at a height of 96
    ],
)
def test_scale_draws_its_whole_range(scale_to: str, low: int, high: int) -> None:
    augment = Augmentation((96, 160), (0.5, 2.0), False, False, 1.0, scale_to=scale_to, edges=(64, 10_000))
    sizes = [augment._scaled_size((100, 50), generator(seed).uniform(0.5, 2.0)) for seed in range(200)]
    assert all(abs(height - 2 * width) <= 1 for height, width in sizes)  # the ratio is kept
    heights = [height for height, _ in sizes]
    assert low <= min(heights) < low * 1.1
    assert high * 0.95 < max(heights) <= high


def test_the_longest_edge_is_limited_where_the_shortest_is_scaled() -> None:
    augment = Augmentation((32, 32), (1.0, 1.0), False, False, 1.0, scale_to="shortest_edge", edges=(64, 100))
    assert augment._scaled_size((10, 20), 1.0) == (50, 100)
    assert augment._scaled_size((20, 10), 1.0) == (100, 50)
    assert augment._scaled_size((20, 20), 1.0) == (64, 64)


def test_large_scale_jitter_covers_the_crop_from_a_tenth_to_twice_its_size() -> None:
    image, annotation = coded(72, 80)
    augment = Augmentation((64, 64), (0.1, 2.0), False, False, 1.0, scale_to="crop")
    covered = [(augment(image, annotation, generator(seed))[1].planes[0] > 0).mean() for seed in range(60)]
    assert min(covered) < 0.05
    assert sum(share == 1 for share in covered) > 15  # factors above 64 / 57.6


def nothing_but(index: int, height: int, width: int, box: tuple[slice, slice]) -> Annotation:
    """A segment of class `index` in a box, on a background of class 0."""
    planes = np.ones((1, height, width), np.int32)
    planes[0][box] = 2
    return Annotation(planes, np.array([0, index]), np.zeros(2, bool))


def share(condition: Callable[[Annotation], bool], augment: Augmentation, annotation: Annotation) -> float:
    image = np.zeros((*annotation.size, 3), np.uint8)
    return sum(condition(augment(image, annotation, generator(seed))[1]) for seed in range(200)) / 200


def test_a_crop_of_one_category_is_drawn_again() -> None:
    annotation = nothing_but(1, 64, 256, (slice(None), slice(224, None)))
    annotation.planes[:, :32] = 0  # half of every crop, which must not count

    def mixed(new: Annotation) -> bool:
        return set(np.unique(new.planes)) == {0, 1, 2}

    assert share(mixed, Augmentation((64, 32), (1, 1), False, False, 1.0), annotation) < 0.25
    assert share(mixed, Augmentation((64, 32), (1, 1), False, False, 0.99), annotation) > 0.6


def test_a_crop_without_a_thing_is_drawn_again_where_the_image_has_things() -> None:
    annotation = nothing_but(1, 64, 256, (slice(20, 30), slice(240, 250)))

    def has_thing(new: Annotation) -> bool:
        return bool((new.planes == 2).any())

    def augment(avoid: bool, things: frozenset[int] = frozenset({1})) -> Augmentation:
        return Augmentation((32, 32), (1, 1), False, False, 1.0, avoid_empty=avoid, things=things)

    assert share(has_thing, augment(False), annotation) < 0.15
    assert share(has_thing, augment(True), annotation) > 0.4
    # without things, any segment will do: the first crop is taken
    assert share(has_thing, augment(True, frozenset()), annotation) < 0.15
    crowd = Annotation(annotation.planes, annotation.label_ids, np.array([False, True]))
    assert share(has_thing, augment(True), crowd) < 0.15  # a crowd is no target


@pytest.mark.parametrize(
    "annotation", [coded(64, 64)[1], Annotation(np.zeros((1, 64, 64), np.int32), *np.zeros((2, 0)))]
)
def test_what_cannot_be_met_is_no_endless_search(annotation: Annotation) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    annotation = Annotation(annotation.planes, annotation.label_ids.astype(int), annotation.crowd.astype(bool))
    augment = Augmentation((32, 32), (1, 1), False, False, 1e-9, avoid_empty=True)
    assert augment(image, annotation, generator())[1].size == (32, 32)
    calls = []
    random_crop(image, annotation.planes, (32, 32), lambda window: bool(calls.append(window)), (0, 0, 0), generator())
    assert len(calls) == 10


def test_resizing_takes_the_nearest_segment() -> None:
    image, annotation = coded(64, 48)
    new_image, planes = resized(image, annotation.planes, (32, 24))
    np.testing.assert_array_equal(planes, annotation.planes[:, ::2, ::2])
    assert new_image.shape == (32, 24, 3)
    same = resized(image, annotation.planes, (64, 48))
    assert same[0] is image
    assert same[1] is annotation.planes


def test_the_configuration_reaches_the_augmentation() -> None:
    data = DataConfig(
        crop=(64, 96), scale=(0.1, 2.0), scale_to="shortest_edge", scale_limit=700, shortest_edge=300, flip=False,
        vertical_flip=True, rotate=True, color_jitter=False, max_category_area=0.75, avoid_empty=False,
    )  # fmt: skip
    labels = [Label(i, "", thing, (0, 0, 0), i) for i, thing in enumerate([True, False, True, None])]
    assert build_augmentation(data, labels, (1, 2, 3)) == Augmentation(
        (64, 96), (0.1, 2.0), False, False, 0.75, (1, 2, 3), "shortest_edge", (300, 700), False, True, True,
        frozenset({0, 2}),
    )  # fmt: skip


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


def test_targets_are_the_segments_in_sight_without_crowds() -> None:
    planes = np.array([[[1, 1, 0], [2, 1, 2]], [[0, 3, 3], [0, 0, 0]]], np.int32)
    annotation = Annotation(planes, np.array([5, 6, 7, 8]), np.array([False, True, False, False]))
    labels, masks = targets(annotation)
    assert labels.dtype == np.int64
    assert labels.tolist() == [5, 7]  # segment 1 is a crowd, segment 3 out of sight
    assert masks.dtype == bool
    assert masks.astype(int).tolist() == [[[1, 1, 0], [0, 1, 0]], [[0, 1, 1], [0, 0, 0]]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 300), planes=st.integers(1, 3))
def test_targets_are_the_annotations_masks(seed: int, count: int, planes: int) -> None:
    random = generator(seed)
    annotation = Annotation(
        random.integers(0, count + 1, (planes, 12, 9)).astype(np.int32),
        random.integers(0, 7, count),
        random.random(count) < 0.2,
    )
    wanted = [k for k in range(count) if annotation.mask(k).any() and not annotation.crowd[k]]
    labels, masks = targets(annotation)
    np.testing.assert_array_equal(labels, annotation.label_ids[wanted])
    assert masks.shape == (len(wanted), 12, 9)
    for mask, segment in zip(masks, wanted, strict=True):
        np.testing.assert_array_equal(mask, annotation.mask(segment))
