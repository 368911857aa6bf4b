"""Post-processing in C++ against the NumPy reference, on every instruction set of this machine, up to ties."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge import trt_plugins
from mask2edge.benchmarks.synthetic_logits import synthetic_logits
from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.native_postprocess import NativePostprocess
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing

TIE = 1e-5  # scores and logits closer than this may be decided either way
TASKS = ("semantic", "panoptic", "instance")
LIBRARY = trt_plugins.cpu_library()
SETS = NativePostprocess(LIBRARY).instruction_sets if LIBRARY else ()
if LIBRARY is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") != "1":
    pytest.skip(trt_plugins.why_no_cpu_library(), allow_module_level=True)


instruction_sets = st.sampled_from(SETS)


def make_spec(classes: int, tasks=("panoptic", "instance", "semantic"), **rules) -> ModelSpec:
    labels = tuple(Label(i, f"class{i}", i % 3 != 0, (i, i, i), i + 1) for i in range(classes))
    return ModelSpec("m", labels, 1, Preprocessing((0,) * 3, (1,) * 3), Postprocessing(**rules), tasks)


@st.composite
def geometries(draw):
    """padded, content, image; the masks are a quarter of the padded size."""
    padded = (32 * draw(st.integers(1, 4)), 32 * draw(st.integers(1, 4)))
    content = (draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1])))
    scale = draw(st.sampled_from((0.1, 0.5, 1, 1.7, 4)))
    image = (max(1, int(content[0] * scale)), max(1, int(content[1] * scale)))
    return padded, content, image


def draw_logits(seed: int, queries: int, classes: int, padded: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Smooth masks or plain noise, and classes from sure to open."""
    random = np.random.default_rng(seed)
    class_logits = random.normal(size=(queries, classes + 1)) * random.choice((0.3, 2, 6))
    mask = padded[0] // 4, padded[1] // 4
    if random.random() < 0.5:
        confident = int(random.integers(1, queries + 1))
        logits = synthetic_logits(confident, queries, classes, mask, seed)
        return logits.class_logits, logits.mask_logits
    mask_logits = random.normal(size=(queries, *mask)) * random.choice((0.1, 3, 40)) + random.normal()
    return class_logits.astype(np.float32), mask_logits.astype(np.float32)


def full_masks(mask_logits, padded, content, image) -> np.ndarray:
    return np.stack([postprocess._to_image(one, padded, content, image) for one in mask_logits])  # [Q, H0, W0]


def semantic_scores(class_logits, mask_logits, geometry, order) -> np.ndarray:
    """[K, H0, W0] in the reference's arithmetic, all of them."""
    probabilities = postprocess._softmax(class_logits)[:, :-1].astype(np.float64)  # [Q, K]
    if order == "image":
        masks = postprocess._sigmoid(full_masks(mask_logits, *geometry)).astype(np.float64)
        return np.einsum("qk,qhw->khw", probabilities, masks)
    padded, content, image = geometry
    masks = np.stack([postprocess._resize(one, padded) for one in mask_logits])[:, : content[0], : content[1]]
    scores = np.einsum("qk,qhw->khw", probabilities, postprocess._sigmoid(np.ascontiguousarray(masks)))
    return np.stack([postprocess._resize(one.astype(np.float32), image) for one in scores])


def assert_consistent(result) -> None:
    """The table says what the label map and the masks say."""
    for segment in result.segments:
        ys, xs = np.nonzero(segment.mask)
        assert segment.area == len(xs) > 0
        assert segment.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def assert_same_segments(got, expected, tolerance=2e-5) -> None:
    assert [(s.id, s.label_id, s.label, s.is_thing) for s in got.segments] == [
        (s.id, s.label_id, s.label, s.is_thing) for s in expected.segments
    ]
    np.testing.assert_allclose([s.score for s in got.segments], [s.score for s in expected.segments], atol=tolerance)


@settings(max_examples=80, deadline=None)
@given(geometries(), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40),
       st.sampled_from(("image", "padded")), instruction_sets, st.integers(1, 3))  # fmt: skip
def test_semantic_is_the_reference(geometry, seed, queries, classes, order, instruction_set, threads):
    class_logits, mask_logits = draw_logits(seed, queries, classes, geometry[0])
    spec = make_spec(classes, semantic_order=order)
    got = NativePostprocess(LIBRARY, threads, instruction_set).semantic(class_logits, mask_logits, *geometry, spec)
    scores = semantic_scores(class_logits, mask_logits, geometry, order)
    own = np.take_along_axis(scores, got.label_map[None].astype(np.int64), 0)[0]
    assert (own >= scores.max(0) - TIE).all()
    for segment in got.segments:
        assert segment.score == pytest.approx(own[got.label_map == segment.id].mean(), abs=1e-5)
    assert sum(segment.area for segment in got.segments) == got.label_map.size
    assert_consistent(got)


@settings(max_examples=80, deadline=None)
@given(geometries(), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.sampled_from((0.0, 0.3, 0.8)),
       st.sampled_from((0.0, 0.5, 0.8)), instruction_sets, st.integers(1, 3))  # fmt: skip
def test_panoptic_is_the_reference(geometry, seed, queries, classes, surely, overlap, instruction_set, threads):
    class_logits, mask_logits = draw_logits(seed, queries, classes, geometry[0])
    spec = make_spec(classes, object_threshold=surely, overlap_threshold=overlap)
    expected = postprocess.panoptic(class_logits, mask_logits, *geometry, spec)
    got = NativePostprocess(LIBRARY, threads, instruction_set).panoptic(class_logits, mask_logits, *geometry, spec)
    assert_same_segments(got, expected)
    assert_consistent(got)
    differs = got.label_map != expected.label_map
    if differs.any():
        masks = full_masks(mask_logits, *geometry)[:, differs]  # [Q, pixels]
        probabilities = postprocess._softmax(class_logits)
        weighted = np.sort(probabilities.max(1)[:, None] * postprocess._sigmoid(masks.copy()), axis=0)
        is_tie = (np.abs(masks) < 1e-4).any(0) | (np.diff(weighted, axis=0) < TIE).any(0)
        assert is_tie.all()


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12), st.sampled_from((1, 10, 100, 400)),
       st.booleans(), instruction_sets, st.integers(1, 3))  # fmt: skip
def test_instances_are_the_reference(geometry, seed, queries, classes, top_k, panoptic_too, instruction_set, threads):
    class_logits, mask_logits = draw_logits(seed, queries, classes, geometry[0])
    tasks = ("panoptic", "instance") if panoptic_too else ("instance",)
    spec = make_spec(classes, tasks, instance_top_k=top_k)
    expected = postprocess.instance(class_logits, mask_logits, *geometry, spec)
    got = NativePostprocess(LIBRARY, threads, instruction_set).instance(class_logits, mask_logits, *geometry, spec)
    assert_consistent(got)
    scores = [segment.score for segment in got.segments]
    assert scores == sorted(scores)
    painted = np.zeros(geometry[2], np.int32)
    for segment in got.segments:
        painted[segment.mask] = segment.id
    np.testing.assert_array_equal(got.label_map, painted)
    # A logit that rounding may take to the other side of 0 changes a mask, and its score; close scores, the order.
    masks = full_masks(mask_logits, *geometry)
    is_open = (np.abs(masks) < 4e-7 * np.abs(mask_logits).max()).any()
    if is_open or any(abs(one - other) < TIE for one, other in itertools.pairwise(scores)):
        return
    assert_same_segments(got, expected)
    assert [segment.rle for segment in got.segments] == [segment.rle for segment in expected.segments]


@pytest.mark.parametrize("confident", [15, 60])
@pytest.mark.parametrize("task", ["semantic-image", "semantic-padded", "panoptic", "instance"])
def test_realistic_logits(task, confident):
    """At half of 1080p: nearly every pixel the same, on each instruction set."""
    logits = synthetic_logits(confident, seed=3)
    task, _, order = task.partition("-")
    spec = make_spec(133, semantic_order=order or "padded")
    arguments = (logits.class_logits, logits.mask_logits, (512, 512), (288, 512), (540, 960), spec)
    expected = getattr(postprocess, task)(*arguments)
    for instruction_set in SETS:
        got = getattr(NativePostprocess(LIBRARY, 2, instruction_set), task)(*arguments)
        flips = np.mean(got.label_map != expected.label_map)
        assert flips <= 1e-4
        assert_same_segments(got, expected, 3e-4 if flips else 1e-5)  # a mean over a pixel more or less


SPECIAL = {
    "one pixel of one query": (np.full((1, 8, 8), 3.0), ((32, 32), (32, 32), (1, 1))),
    "no mask anywhere": (np.full((5, 8, 8), -200.0), ((32, 32), (20, 32), (40, 64))),
    "masks everywhere": (np.full((5, 8, 8), 1e4), ((32, 32), (20, 32), (40, 64))),
    "masks of zeros": (np.zeros((5, 8, 8)), ((32, 32), (20, 32), (41, 63))),
    "opposites": (np.tile([1e30, -1e30], (5, 8, 4)), ((32, 32), (32, 32), (70, 90))),
    "masks as large as the input": (np.random.default_rng(1).normal(size=(5, 32, 40)), ((32, 40), (20, 33), (50, 70))),
    "an odd factor": (np.random.default_rng(1).normal(size=(5, 11, 13)), ((32, 40), (20, 33), (50, 70))),
    "one row of masks": (np.random.default_rng(1).normal(size=(5, 1, 40)), ((4, 160), (4, 160), (9, 500))),
    "one column of masks": (np.random.default_rng(1).normal(size=(5, 40, 1)), ((160, 4), (160, 4), (500, 9))),
    "shrunk a lot": (np.random.default_rng(1).normal(size=(5, 64, 64)), ((256, 256), (250, 256), (5, 6))),
}


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_masks(name, instruction_set):
    masks, geometry = SPECIAL[name]
    queries = len(masks)
    class_logits = np.random.default_rng(2).normal(size=(queries, 4)).astype(np.float32)
    native = NativePostprocess(LIBRARY, 2, instruction_set)
    for order in ("image", "padded"):
        spec = make_spec(3, object_threshold=0.2, semantic_order=order)
        for task in TASKS:
            arguments = (class_logits, masks.astype(np.float32), *geometry, spec)
            expected, got = getattr(postprocess, task)(*arguments), getattr(native, task)(*arguments)
            np.testing.assert_array_equal(got.label_map, expected.label_map, err_msg=f"{task} {order}")
            assert_same_segments(got, expected)
            assert_consistent(got)
            assert [s.rle for s in got.segments] == [s.rle for s in expected.segments]


@pytest.mark.parametrize("instruction_set", SETS)
def test_no_query_is_kept(instruction_set):
    class_logits = np.array([[0, 0, 0, 9]] * 5, np.float32)
    mask_logits = np.full((5, 8, 8), 4, np.float32)
    native = NativePostprocess(LIBRARY, 2, instruction_set)
    result = native.panoptic(class_logits, mask_logits, (32, 32), (20, 32), (40, 64), make_spec(3))
    assert result.segments == ()
    assert result.label_map.shape == (40, 64)
    assert not result.label_map.any()


def test_of_equals_the_first_wins():
    """Queries that are copies of one another: NumPy's argmax takes the first, in every output."""
    class_logits = np.zeros((6, 4), np.float32)
    class_logits[:, [0, 1]] = 5
    mask_logits = np.tile(np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32), (6, 1, 1))
    geometry = ((64, 64), (64, 64), (100, 100))
    for task in TASKS:
        spec = make_spec(3, object_threshold=0.2, overlap_threshold=0.0, semantic_order="image")
        got = getattr(NativePostprocess(LIBRARY), task)(class_logits, mask_logits, *geometry, spec)
        expected = getattr(postprocess, task)(class_logits, mask_logits, *geometry, spec)
        if task == "semantic":
            assert not got.label_map.any()
            continue
        np.testing.assert_array_equal(got.label_map, expected.label_map)
        assert_same_segments(got, expected)


@pytest.mark.parametrize("task", TASKS)
def test_same_bits_on_any_number_of_threads(task):
    logits = synthetic_logits(20, 40, 12, (64, 64), seed=5)
    arguments = (logits.class_logits, logits.mask_logits, (256, 256), (200, 256), (333, 427), make_spec(12))
    one, other = (getattr(NativePostprocess(LIBRARY, threads), task)(*arguments) for threads in (1, 5))
    np.testing.assert_array_equal(one.label_map, other.label_map)
    assert [(s.score, s.area, s.box) for s in one.segments] == [(s.score, s.area, s.box) for s in other.segments]


def test_the_same_words_for_the_same_mistakes():
    class_logits, mask_logits = draw_logits(7, 4, 3, (32, 32))
    geometry = ((32, 32), (32, 32), (32, 32))
    unknown = make_spec(3)
    unknown = dataclasses.replace(unknown, labels=tuple(dataclasses.replace(x, is_thing=None) for x in unknown.labels))
    cases = [
        ("panoptic", class_logits, mask_logits, geometry, unknown),
        ("semantic", class_logits, mask_logits, geometry, make_spec(9)),
        ("semantic", class_logits[None], mask_logits[None], geometry, make_spec(3)),
        ("instance", class_logits[:2], mask_logits, geometry, make_spec(3)),
        ("semantic", class_logits, mask_logits, ((32, 32), (40, 32), (9, 9)), make_spec(3)),
    ]
    for value in (np.nan, np.inf, -np.inf):
        for place in ((0, 0, 0), (3, 7, 7), (2, 3, 5)):
            broken = mask_logits.copy()
            broken[place] = value
            cases += [(task, class_logits, broken, ((32, 32), (9, 9), (9, 9)), make_spec(3)) for task in TASKS]
        broken = class_logits.copy()
        broken[3, 3] = value
        cases += [(task, broken, mask_logits, geometry, make_spec(3)) for task in TASKS]
    native = NativePostprocess(LIBRARY)
    for task, classes, masks, sizes, spec in cases:
        with pytest.raises(InputError) as expected:
            getattr(postprocess, task)(classes, masks, *sizes, spec)
        with pytest.raises(InputError) as got:
            getattr(native, task)(classes, masks, *sizes, spec)
        assert str(got.value) == str(expected.value)


def test_other_layouts_and_types_of_logits_are_taken():
    class_logits, mask_logits = draw_logits(8, 4, 3, (32, 32))
    geometry, spec = ((32, 32), (32, 32), (50, 60)), make_spec(3, object_threshold=0.1)
    strange = np.asfortranarray(mask_logits.astype(np.float64)), np.ascontiguousarray(class_logits.T).T
    for task in TASKS:
        got = getattr(NativePostprocess(LIBRARY), task)(strange[1], strange[0], *geometry, spec)
        expected = getattr(NativePostprocess(LIBRARY), task)(class_logits, mask_logits, *geometry, spec)
        np.testing.assert_array_equal(got.label_map, expected.label_map)


@pytest.mark.parametrize("task", TASKS)
def test_what_the_library_does_not_take_the_reference_does(task):
    random = np.random.default_rng(0)
    class_logits, mask_logits = random.normal(size=(3, 4)).astype(np.float32), random.normal(size=(3, 40, 40))
    arguments = (class_logits, mask_logits.astype(np.float32), (32, 32), (32, 32), (20, 20), make_spec(3))
    got, expected = getattr(NativePostprocess(LIBRARY), task)(*arguments), getattr(postprocess, task)(*arguments)
    np.testing.assert_array_equal(got.label_map, expected.label_map)
