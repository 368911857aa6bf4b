"""The device's pre- and post-processing against the host's, through the real ctypes wrapper and without a GPU.

libmask2edge_simt.so has the plugin library's C functions over kernels that the CPU executes thread by thread, in
several orders (tests/native/simt); its "device memory" is NumPy's. Every buffer has a guard on both sides.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from simt_build import Unavailable, simt_library

from mask2edge.runtime import device_kernels, postprocess, preprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import SEGMENT_DTYPE, DeviceKernelError, DeviceKernels, FusionSizes, segmentation
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing, Profile

GUARD = 64  # bytes on both sides of a buffer
ORDERS = {"forward": (0, 0), "reverse": (1, 0), "shuffled": (2, 3)}  # tests/native/simt/library.cpp: order, seed
GEOMETRIES = {  # padded, content, image
    "larger image": ((64, 96), (60, 90), (121, 180)),
    "smaller image": ((96, 96), (90, 70), (31, 24)),
    "half": ((64, 64), (64, 64), (32, 32)),
    "same size": ((64, 96), (64, 96), (64, 96)),
    "padding dominates": ((96, 96), (10, 90), (25, 230)),
    "one pixel": ((64, 64), (64, 64), (1, 1)),
    "one pixel of content": ((32, 32), (1, 1), (5, 7)),
    "a column": ((128, 32), (128, 1), (301, 1)),
    "a row": ((32, 128), (1, 128), (1, 700)),
    "mask as large as the input": ((24, 40), (17, 40), (33, 71)),
}


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return simt_library()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=ORDERS.values(), ids=ORDERS)
def kernels(library: Path, request: pytest.FixtureRequest) -> Iterator[DeviceKernels]:
    """The wrapper, once for each order of threads."""
    configure = ctypes.CDLL(str(library)).mask2edge_simt_configure
    configure.argtypes = [ctypes.c_int32, ctypes.c_uint64, ctypes.c_int32]
    configure(*request.param, 0)
    yield DeviceKernels(library)
    configure(0, 0, 0)


class Guarded:
    """Memory whose surroundings must stay as they are. Filled with 0xff at first: nothing may rely on zeros."""

    def __init__(self, size: int) -> None:
        self._bytes = np.full(size + 3 * GUARD, 0xEE, np.uint8)
        self._start = GUARD + -(self._bytes.ctypes.data + GUARD) % GUARD
        self._end = self._start + size
        self._bytes[self._start : self._end] = 0xFF

    @property
    def address(self) -> int:
        return self._bytes.ctypes.data + self._start

    def array(self, kind: np.dtype | type, shape: tuple[int, ...]) -> np.ndarray:
        assert (self._bytes[: self._start] == 0xEE).all()
        assert (self._bytes[self._end :] == 0xEE).all()
        return self._bytes[self._start : self._end].view(kind).reshape(shape).copy()


def make_spec(classes: int, order: str = "image", things: int = 2) -> ModelSpec:
    """Every second class is a thing, or with `things` 1 all are."""
    labels = tuple(Label(i, f"class{i}", i % things == 0, (i % 256,) * 3, i + 1) for i in range(classes))
    rules = Postprocessing(semantic_order=order)
    return ModelSpec("m", labels, 1, Preprocessing((0,) * 3, (1,) * 3), rules, ("panoptic", "semantic"))


def fuse(
    kernels: DeviceKernels, task: str, class_logits: np.ndarray, mask_logits: np.ndarray, geometry: tuple,
    spec: ModelSpec, thresholds: tuple[float, float] = (0.8, 0.8),
) -> Segmentation:  # fmt: skip
    """The device's result; arguments as for the host's."""
    (queries, columns), mask = class_logits.shape, mask_logits.shape[1:]
    sizes = FusionSizes(queries, columns - 1, mask, *geometry)
    order = spec.postprocessing.semantic_order
    rows = sizes.table_rows(task)
    needed = kernels.semantic_workspace(sizes, order) if task == "semantic" else kernels.panoptic_workspace(sizes)
    label_map, table = Guarded(4 * int(np.prod(sizes.image))), Guarded(rows * SEGMENT_DTYPE.itemsize)
    workspace = Guarded(needed)
    things = np.array([bool(label.is_thing) for label in spec.labels], np.uint8)
    logits = class_logits.ctypes.data, mask_logits.ctypes.data
    places = label_map.address, table.address, workspace.address, 0
    if task == "semantic":
        kernels.semantic(*logits, sizes, order, *places)
    else:
        kernels.panoptic(*logits, sizes, things.ctypes.data, *thresholds, *places)
    workspace.array(np.uint8, (needed,))
    return segmentation(label_map.array(np.int32, sizes.image), table.array(SEGMENT_DTYPE, (rows,)), task, spec.labels)


def noisy(seed: int, queries: int, classes: int, mask: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses with soft, noisy borders that overlap; of the queries some are sure, some not, and some are nothing."""
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(size=(queries, classes + 1)).astype(np.float32) * 2
    class_logits[np.arange(queries), rng.integers(0, classes + 1, queries)] += rng.uniform(0, 9, queries)
    masks = ellipses(rng, queries, mask)
    return class_logits, (masks + rng.normal(size=masks.shape) * 0.3).astype(np.float32)


def ellipses(rng: np.random.Generator, queries: int, mask: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: mask[0], : mask[1]] / np.reshape(mask, (2, 1, 1))  # [h, w] each, 0 … 1
    centre, radius = rng.uniform(0, 1, (2, queries, 1, 1)), rng.uniform(0.1, 0.6, (2, queries, 1, 1))
    distance = np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1])  # [Q, h, w]
    return np.clip(6 * (1 - distance), -12, 12)


def mask_size(padded: tuple[int, int], name: str = "") -> tuple[int, int]:
    return padded if "mask as large" in name else (padded[0] // 4, padded[1] // 4)


def expect_same(got: Segmentation, expected: Segmentation, flips: float = 1e-4) -> None:
    """Equal but for rounding: labels of a part `flips` of the pixels, scores to six digits."""
    assert got.label_map.dtype == np.int32
    differ = np.mean(got.label_map != expected.label_map)
    assert differ <= flips
    assert [(s.id, s.label_id) for s in got.segments] == [(s.id, s.label_id) for s in expected.segments]
    for one, other in zip(got.segments, expected.segments, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-6)
        assert (one.label, one.is_thing) == (other.label, other.is_thing)
        mask = got.label_map == one.id
        assert (one.area, one.box) == (np.count_nonzero(mask), postprocess._box(mask))


@pytest.mark.parametrize("order", ["image", "padded"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_semantic_is_the_hosts(kernels, name, order):
    geometry, spec = GEOMETRIES[name], make_spec(7, order)
    class_logits, mask_logits = noisy(1, 23, 7, mask_size(geometry[0], name))
    expected = postprocess.semantic(class_logits, mask_logits, *geometry, spec)
    expect_same(fuse(kernels, "semantic", class_logits, mask_logits, geometry, spec), expected)


@pytest.mark.parametrize("thresholds", [(0.8, 0.8), (0.3, 0.5), (0.0, 0.8)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_panoptic_is_the_hosts(kernels, name, thresholds):
    geometry, spec = GEOMETRIES[name], make_spec(5)
    class_logits, mask_logits = noisy(2, 40, 5, mask_size(geometry[0], name))
    expected = postprocess.panoptic(class_logits, mask_logits, *geometry, spec, *thresholds)
    expect_same(fuse(kernels, "panoptic", class_logits, mask_logits, geometry, spec, thresholds), expected)


@pytest.mark.parametrize(("queries", "classes"), [(1, 1), (2, 150), (3, 300), (150, 2), (1024, 3), (5, 4096)])
def test_any_number_of_queries_and_classes(kernels, queries, classes):
    geometry = ((16, 32), (16, 30), (9, 40))
    class_logits, mask_logits = noisy(3, queries, classes, (4, 8))
    for order in ("image", "padded"):
        spec = make_spec(classes, order)
        expected = postprocess.semantic(class_logits, mask_logits, *geometry, spec)
        expect_same(fuse(kernels, "semantic", class_logits, mask_logits, geometry, spec), expected)
    expected = postprocess.panoptic(class_logits, mask_logits, *geometry, spec, 0.0, 0.0)
    expect_same(fuse(kernels, "panoptic", class_logits, mask_logits, geometry, spec, (0.0, 0.0)), expected)


def test_of_equals_the_first_wins(kernels):
    # Pairs of queries with the same mask and classes; classes 1 and 2 always have the same probability.
    rng = np.random.default_rng(4)
    class_logits = np.repeat(rng.integers(-2, 6, (6, 4)).astype(np.float32), 2, axis=0)
    class_logits[:, 2] = class_logits[:, 1]
    class_logits[4:8, 1:3] = 9
    mask_logits = np.repeat(ellipses(rng, 6, (8, 8)), 2, axis=0).astype(np.float32)
    geometry = ((32, 32), (32, 24), (40, 30))
    for order in ("image", "padded"):
        spec = make_spec(3, order, things=1)
        got = fuse(kernels, "semantic", class_logits, mask_logits, geometry, spec)
        expect_same(got, postprocess.semantic(class_logits, mask_logits, *geometry, spec), flips=0)
        assert 1 in got.label_map
        assert 2 not in got.label_map
    got = fuse(kernels, "panoptic", class_logits, mask_logits, geometry, spec, (0.0, 0.0))
    expected = postprocess.panoptic(class_logits, mask_logits, *geometry, spec, 0.0, 0.0)
    expect_same(got, expected, flips=0)
    assert 2 < len(got.segments) <= 6  # the second of a pair has nothing left


def test_stuff_merges_and_a_mask_of_exactly_one_half_counts(kernels):
    spec = make_spec(2)  # class 0 a thing, class 1 stuff
    class_logits = np.array([[9, 0, 0], [9, 0, 0], [0, 8, 0], [0, 9, 0]], np.float32)
    mask_logits = np.full((4, 8, 8), -9, np.float32)
    for query in range(4):  # a quarter each; the last of exactly one half
        top, left = 4 * (query // 2), 4 * (query % 2)
        mask_logits[query, top : top + 4, left : left + 4] = 9 if query < 3 else 0
    geometry = ((8, 8), (8, 8), (8, 8))
    got = fuse(kernels, "panoptic", class_logits, mask_logits, geometry, spec)
    assert [(s.id, s.label_id, s.area, s.box) for s in got.segments] == [
        (1, 0, 16, (0, 0, 4, 4)), (2, 0, 16, (4, 0, 8, 4)), (3, 1, 32, (0, 4, 8, 8)),
    ]  # fmt: skip
    expect_same(got, postprocess.panoptic(class_logits, mask_logits, *geometry, spec), flips=0)


def test_nothing_found_is_an_empty_result(kernels):
    class_logits = np.array([[0, 0, 0, 9]] * 5, np.float32)
    mask_logits = np.full((5, 8, 8), -200, np.float32)
    geometry = ((32, 32), (20, 32), (40, 64))
    got = fuse(kernels, "panoptic", class_logits, mask_logits, geometry, make_spec(3))
    assert got.segments == ()
    assert not got.label_map.any()
    # Masks that underflow to 0 everywhere: every class has the score 0, and the first is the best.
    got = fuse(kernels, "semantic", class_logits, mask_logits, geometry, make_spec(3))
    assert [(s.id, s.score, s.area, s.box) for s in got.segments] == [(0, 0.0, 40 * 64, (0, 0, 64, 40))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(kernels, value):
    geometry = ((32, 32), (32, 32), (20, 20))
    for damage_classes in (True, False):
        class_logits, mask_logits = noisy(5, 6, 3, (8, 8))
        if damage_classes:
            class_logits[4, 1] = value
        else:
            mask_logits[:, 3, 5] = value
        for task, order in (("semantic", "image"), ("semantic", "padded"), ("panoptic", "image")):
            with pytest.raises(InputError, match=r"expected finite logits.*--fp32"):
                fuse(kernels, task, class_logits, mask_logits, geometry, make_spec(3, order), (0.0, 0.0))


# ---- Preprocessing --------------------------------------------------------------------------------------------------
COCO = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
LITE = Preprocessing((127.5,) * 3, (127.5,) * 3)
WHOLE = Preprocessing((103.0, 0.0, 255.0), (1.0, 3.0, 0.7))  # levels that become 0 exactly


def prepare(
    kernels: DeviceKernels, image: np.ndarray, content: tuple, padded: tuple, rules: Preprocessing
) -> np.ndarray:
    pixels = Guarded(4 * 3 * padded[0] * padded[1])
    kernels.preprocess(image.ctypes.data, image.shape[:2], content, padded, rules, pixels.address, 0)
    return pixels.array(np.float32, (3, *padded))


def reference(image: np.ndarray, content: tuple, padded: tuple, rules: Preprocessing) -> np.ndarray:
    """As preprocess_batch does it, for any content."""
    resized = preprocess._resize(image, content)
    pixels = np.zeros((3, *padded), np.float32)
    for channel, table in enumerate(preprocess._normalisation_tables(rules)):
        plane = np.ascontiguousarray(resized[:, :, 2 - channel])
        pixels[channel, : content[0], : content[1]] = cv2.LUT(plane, table)
    return pixels


def expect_same_pixels(got: np.ndarray, expected: np.ndarray, rules: Preprocessing) -> None:
    """Equal to the bit with OpenCV on x86-64. On other processors, where OpenCV may round a tie to the other side: at
    most one level off, in one of a thousand places."""
    if np.array_equal(got, expected):
        return
    levels = np.abs(got - expected) * np.reshape(rules.std, (3, 1, 1))
    assert levels.max() < 1.001
    assert np.mean(got != expected) < 1e-3


@pytest.mark.parametrize("rules", [COCO, LITE, WHOLE], ids=["coco", "lite", "whole"])
@pytest.mark.parametrize(
    ("image", "content"),
    [
        ((90, 120), (48, 64)),  # shrinks
        ((97, 61), (41, 26)),
        ((64, 96), (32, 48)),  # to a half, where OpenCV rounds otherwise
        ((60, 120), (20, 24)),  # by other whole numbers
        ((147, 98), (3, 2)),  # by 49, whose inverse is not exact
        ((1333, 7), (1000, 7)),  # covers 1/1000 of a row
        ((30, 40), (30, 40)),  # stays
        ((17, 29), (40, 61)),  # grows
        ((1, 1), (33, 35)),
        ((50, 1), (20, 1)),
        ((20, 60), (33, 41)),  # one axis shrinks, the other grows
    ],
)
def test_preprocessing_is_opencvs(kernels, image, content, rules):
    rng = np.random.default_rng(6)
    picture = rng.integers(0, 256, (*image, 3), dtype=np.uint8)
    padded = (content[0] + 13, content[1] + 32)
    got = prepare(kernels, picture, content, padded, rules)
    expect_same_pixels(got, reference(picture, content, padded, rules), rules)
    assert got.any()


def test_preprocessing_is_the_hosts_for_a_profile(kernels):
    picture = np.random.default_rng(7).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    prepared = preprocess.preprocess(picture, COCO, Profile.fixed(64, 96))
    got = prepare(kernels, picture, prepared.content, prepared.padded, COCO)
    expect_same_pixels(got, prepared.pixels[0], COCO)


# ---- The wrapper ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wrapper(library: Path) -> DeviceKernels:
    return DeviceKernels(library)


def test_structures_are_those_of_the_library(library):
    numbers = (ctypes.c_int32 * 100)()
    count = ctypes.CDLL(str(library)).mask2edge_device_layout(numbers, 100)
    assert list(numbers)[:count] == device_kernels.expected_layout()


def test_other_libraries_are_refused(library, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected mask2edge's plugin library"):
        DeviceKernels(tmp_path / "absent.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(InputError, match="install mask2edge again"):
        DeviceKernels(tmp_path / "text.so")
    monkeypatch.setattr(device_kernels, "expected_layout", lambda: [1, 2, 3])
    with pytest.raises(InputError, match="with other structures"):
        DeviceKernels(library)
    monkeypatch.setattr(device_kernels, "DEVICE_INTERFACE", 99)
    with pytest.raises(InputError, match="expected device interface 99, got 1:"):
        DeviceKernels(library)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 1025}, "expected 1 to 1024 queries, got 1025"),
        ({"classes": 0}, "expected 1 to 4096 classes, got 0"),
        ({"mask": (9, 65)}, "mask logits within the padded input of 1x1 to 64x64, got 9x65"),
        ({"content": (65, 64)}, "content within the padded input of 1x1 to 64x64, got 65x64"),
        ({"image": (0, 5)}, "an image of 1x1 to 32768x32768, got 0x5"),
    ],
)
def test_sizes_out_of_range_are_refused(wrapper, change, message):
    good = {
        "queries": 4, "classes": 3, "mask": (16, 16), "padded": (64, 64), "content": (64, 48), "image": (10, 10)
    }  # fmt: skip
    sizes = FusionSizes(**(good | change))
    for call in (
        lambda: wrapper.semantic_workspace(sizes),
        lambda: wrapper.panoptic_workspace(sizes),
        lambda: wrapper.semantic(0, 0, sizes, "image", 0, 0, 0, 0),
        lambda: wrapper.panoptic(0, 0, sizes, 0, 0.8, 0.8, 0, 0, 0, 0),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            call()


def test_other_mistakes_are_refused(wrapper):
    sizes = FusionSizes(4, 3, (8, 8), (32, 32), (32, 32), (10, 10))
    with pytest.raises(InputError, match="expected image or padded, got 'both'"):
        wrapper.semantic_workspace(sizes, "both")
    with pytest.raises(DeviceKernelError, match="semantic: CUDA error 1"):  # a workspace that is not aligned
        wrapper.semantic(0, 0, sizes, "image", 0, 0, 8, 0)
    with pytest.raises(InputError, match="a content within the padded 32x32, got 33x5"):
        wrapper.preprocess(0, (4, 4), (33, 5), (32, 32), COCO, 0, 0)
    with pytest.raises(InputError, match=r"deviations \(std\) above 0"):
        wrapper.preprocess(0, (4, 4), (4, 5), (32, 32), Preprocessing((0,) * 3, (1, 0, 1)), 0, 0)


def test_a_larger_problem_needs_no_less_workspace(wrapper):
    choices = [(1, 100), (1, 150), ((8, 8), (16, 16)), ((64, 64),), ((40, 33), (64, 64)), ((9, 1), (500, 400))]
    everything = [FusionSizes(*sizes) for sizes in itertools.product(*choices)]
    for task in (wrapper.semantic_workspace, wrapper.panoptic_workspace):
        assert max(map(task, everything)) == task(everything[-1])
        # No masks of full size: those of 100 queries at 1080p would take 829 MB.
        assert task(FusionSizes(100, 19, (128, 128), (512, 512), (288, 512), (1080, 1920))) < 6 << 20
    either = wrapper.semantic_workspace(everything[-1])
    assert either == max(wrapper.semantic_workspace(everything[-1], order) for order in ("image", "padded"))
