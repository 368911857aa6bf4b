"""Post-processing against the reference's steps in float64 PyTorch, and Hugging Face where its order is the same."""

import dataclasses
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing

torch = pytest.importorskip("torch")
functional = torch.nn.functional

GEOMETRIES = {  # padded, content, image
    "larger image": ((64, 96), (60, 90), (121, 180)),
    "smaller image": ((96, 96), (90, 70), (31, 24)),
    "half": ((64, 64), (64, 64), (32, 32)),
    "same size": ((64, 96), (64, 96), (64, 96)),
    "padding dominates": ((96, 96), (10, 90), (25, 230)),
    "one pixel": ((64, 64), (64, 64), (1, 1)),
    "a column": ((128, 32), (128, 1), (2500, 1)),
    "a row": ((32, 128), (1, 128), (1, 2500)),
}


def make_spec(classes: int, tasks=("panoptic", "instance", "semantic"), **rules) -> ModelSpec:
    labels = tuple(Label(i, f"class{i}", i % 2 == 0, (i, i, i), i + 1) for i in range(classes))
    return ModelSpec("m", labels, 1, Preprocessing((0,) * 3, (1,) * 3), Postprocessing(**rules), tasks)


def logits(seed: int, queries: int, classes: int, padded: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blobs that overlap, and queries of which some are sure, some not, and some are nothing."""
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(size=(queries, classes + 1)).astype(np.float32) * 2
    class_logits[np.arange(queries), rng.integers(0, classes + 1, queries)] += rng.uniform(0, 9, queries)
    coarse = torch.from_numpy(rng.normal(size=(1, queries, 5, 6)))
    heights = functional.interpolate(coarse, (padded[0] // 4, padded[1] // 4), mode="bicubic")[0].numpy()  # [Q, h, w]
    # Positive where a query's height is close to the highest: territories that overlap along their borders.
    blobs = 6 * (heights - heights.max(axis=0)) + 1.5
    return class_logits, (blobs + rng.normal(size=blobs.shape) * 0.3).astype(np.float32)


def reference_masks(mask_logits, padded, content, image):
    def bilinear(masks, size):
        return functional.interpolate(masks, size=size, mode="bilinear", align_corners=False)

    masks = torch.from_numpy(mask_logits).double()[None]  # [1, Q, h, w]
    return bilinear(bilinear(masks, padded)[:, :, : content[0], : content[1]], image)[0]  # [Q, H0, W0]


def reference_semantic(class_logits, mask_logits, padded, content, image, order):
    scores = torch.from_numpy(class_logits).double().softmax(-1)[:, :-1]
    if order == "image":
        masks = reference_masks(mask_logits, padded, content, image).sigmoid()
        return torch.einsum("qc,qhw->chw", scores, masks)
    masks = functional.interpolate(torch.from_numpy(mask_logits).double()[None], padded, mode="bilinear")[0].sigmoid()
    padded_scores = torch.einsum("qc,qhw->chw", scores, masks)[:, : content[0], : content[1]]
    return functional.interpolate(padded_scores[None], image, mode="bilinear")[0]


def reference_panoptic(class_logits, masks, is_thing, object_threshold, overlap_threshold):
    scores, labels = torch.from_numpy(class_logits).double().softmax(-1).max(-1)
    keep = labels.ne(len(is_thing)) & (scores > object_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks.sigmoid()[keep]
    result = torch.zeros(masks.shape[-2:], dtype=torch.int32)
    segments, stuff = [], {}
    if not len(masks):
        return result.numpy(), segments
    winners = (scores[:, None, None] * masks).argmax(0)
    for k in range(len(labels)):
        label = int(labels[k])
        area, own_area = int((winners == k).sum()), int((masks[k] >= 0.5).sum())
        mask = (winners == k) & (masks[k] >= 0.5)
        if not area or not own_area or not mask.any() or area / own_area < overlap_threshold:
            continue
        if not is_thing[label] and label in stuff:
            result[mask] = stuff[label]
            continue
        segments.append(label)
        stuff[label] = len(segments)
        result[mask] = len(segments)
    return result.numpy(), segments


def reference_instances(class_logits, masks, top_k, allowed):
    scores = torch.from_numpy(class_logits).double().softmax(-1)[:, :-1]
    best, pairs = scores.flatten().topk(min(top_k, scores.numel()))
    found = []
    for score, pair in zip(best.tolist(), pairs.tolist(), strict=True):
        query, label = divmod(pair, scores.shape[1])
        mask = masks[query] > 0
        if label in allowed and mask.any():
            mask_score = masks[query].sigmoid()[mask].sum() / (mask.sum() + 1e-6)
            found.append((score * float(mask_score), label, mask.numpy()))
    return sorted(found, key=lambda entry: entry[0])


def flips(one: np.ndarray, other: np.ndarray) -> float:
    """The part of pixels that differ: float32 may decide a border's pixel otherwise than float64."""
    assert one.shape == other.shape
    return float(np.mean(one != other))


@pytest.mark.parametrize("order", ["image", "padded"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_semantic_is_the_references(geometry, order):
    class_logits, mask_logits = logits(1, 23, 7, geometry[0])
    spec = make_spec(7, semantic_order=order)
    result = postprocess.semantic(class_logits, mask_logits, *geometry, spec)
    scores = reference_semantic(class_logits, mask_logits, *geometry, order)
    assert flips(result.label_map, scores.argmax(0).numpy()) <= 2e-4
    assert result.label_map.dtype == np.int32
    for segment in result.segments:
        mask = torch.from_numpy(np.ascontiguousarray(segment.mask))
        assert segment.score == pytest.approx(float(scores[segment.label_id][mask].mean()), rel=1e-4)


def test_the_two_semantic_orders_differ_and_the_spec_decides():
    class_logits, mask_logits = logits(3, 23, 7, (64, 96))
    geometry = ((64, 96), (60, 90), (240, 360))
    maps = [
        postprocess.semantic(class_logits, mask_logits, *geometry, make_spec(7, semantic_order=order)).label_map
        for order in ("image", "padded")
    ]
    assert 0 < flips(*maps) < 0.05


@pytest.mark.parametrize("thresholds", [(0.8, 0.8), (0.3, 0.5), (0.0, 0.8)])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_panoptic_is_the_references(geometry, thresholds):
    class_logits, mask_logits = logits(2, 40, 5, geometry[0])
    spec = make_spec(5, object_threshold=thresholds[0], overlap_threshold=thresholds[1])
    result = postprocess.panoptic(class_logits, mask_logits, *geometry, spec)
    things = [label.is_thing for label in spec.labels]
    expected, labels = reference_panoptic(class_logits, reference_masks(mask_logits, *geometry), things, *thresholds)
    assert [segment.label_id for segment in result.segments] == labels
    assert len(labels) > 2 or min(geometry[2]) == 1
    assert flips(result.label_map, expected) <= 2e-4
    overridden = postprocess.panoptic(class_logits, mask_logits, *geometry, make_spec(5), *thresholds)
    np.testing.assert_array_equal(overridden.label_map, result.label_map)


@pytest.mark.parametrize("panoptic_too", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_instances_are_the_references(geometry, panoptic_too):
    class_logits, mask_logits = logits(4, 30, 6, geometry[0])
    spec = make_spec(6, ("panoptic", "instance") if panoptic_too else ("instance",), instance_top_k=50)
    result = postprocess.instance(class_logits, mask_logits, *geometry, spec)
    allowed = {0, 2, 4} if panoptic_too else set(range(6))
    expected = reference_instances(class_logits, reference_masks(mask_logits, *geometry), 50, allowed)
    assert [segment.label_id for segment in result.segments] == [label for _, label, _ in expected]
    painted = np.zeros(geometry[2], np.int32)
    for segment, (score, _, mask) in zip(result.segments, expected, strict=True):
        assert segment.score == pytest.approx(score, rel=1e-4)
        assert flips(segment.mask, mask) <= 1e-3
        painted[segment.mask] = segment.id
    np.testing.assert_array_equal(result.label_map, painted)


def hugging_face(name: str, class_logits, mask_logits, **options):
    """Its image processors resize to 384x384 first: at that size, unpadded, the order is the reference's."""
    module = pytest.importorskip("transformers.models.mask2former.image_processing_pil_mask2former")
    outputs = types.SimpleNamespace(
        class_queries_logits=torch.from_numpy(class_logits)[None],
        masks_queries_logits=torch.from_numpy(mask_logits)[None],
    )
    processor = module.Mask2FormerImageProcessorPil.__new__(module.Mask2FormerImageProcessorPil)
    return getattr(processor, name)(outputs, **options)[0]


def test_hugging_face_agrees_where_the_order_is_the_same():
    size = (384, 384)
    class_logits, mask_logits = logits(5, 30, 6, size)
    # Sure classes and sharp masks: theirs takes a mask's own area after weighting by the class score, the reference
    # before, and theirs keeps segments of which no pixel reaches one half.
    class_logits *= 6
    mask_logits *= 4
    spec = make_spec(6, object_threshold=0.4, overlap_threshold=0.6, instance_top_k=30)
    theirs = hugging_face("post_process_semantic_segmentation", class_logits, mask_logits)
    ours = postprocess.semantic(class_logits, mask_logits, size, size, size, spec)
    assert flips(ours.label_map, theirs.numpy()) <= 1e-4

    # No class is fused: after a fusion theirs gives the old segment's number to the next segment, too.
    things = dataclasses.replace(spec, labels=tuple(dataclasses.replace(x, is_thing=True) for x in spec.labels))
    options = {"threshold": 0.4, "overlap_mask_area_threshold": 0.6, "label_ids_to_fuse": set(), "target_sizes": [size]}
    theirs = hugging_face("post_process_panoptic_segmentation", class_logits, mask_logits, **options)
    ours = postprocess.panoptic(class_logits, mask_logits, size, size, size, things)
    infos = [(info["id"], info["label_id"]) for info in theirs["segments_info"]]
    assert [(s.id, s.label_id) for s in ours.segments] == infos
    # Theirs leaves out the reference's step of cutting a segment where its own mask is below one half.
    inside = ours.label_map > 0
    assert len(ours.segments) > 3
    assert flips(ours.label_map[inside], theirs["segmentation"].numpy()[inside]) <= 1e-4

    theirs = hugging_face("post_process_instance_segmentation", class_logits, mask_logits, threshold=0.3)
    ours = postprocess.instance(
        class_logits, mask_logits, size, size, size, make_spec(6, ("instance",), instance_top_k=30)
    )
    expected = sorted(round(info["score"], 4) for info in theirs["segments_info"])
    sure = [segment for segment in ours.segments if segment.score >= 0.3]
    assert len(sure) > 3
    assert [segment.score for segment in sure] == pytest.approx(expected, abs=2e-4)


def test_stuff_merges_and_things_stay_apart():
    spec = make_spec(2)  # class 0 a thing, class 1 stuff
    class_logits = np.array([[9, 0, 0], [9, 0, 0], [0, 8, 0], [0, 9, 0]], np.float32)
    mask_logits = np.full((4, 8, 8), -9, np.float32)
    for query in range(4):  # a quarter each
        top, left = 4 * (query // 2), 4 * (query % 2)
        mask_logits[query, top : top + 4, left : left + 4] = 9
    result = postprocess.panoptic(class_logits, mask_logits, (32, 32), (32, 32), (32, 32), spec)
    assert [(s.id, s.label_id, s.is_thing, s.box) for s in result.segments] == [
        (1, 0, True, (0, 0, 16, 16)),
        (2, 0, True, (16, 0, 32, 16)),
        (3, 1, False, (0, 16, 32, 32)),
    ]
    # Where the four meet, no mask reaches one half.
    assert [s.area for s in result.segments] == pytest.approx([256, 256, 512], abs=2)
    assert result.segments[2].score == pytest.approx(float(torch.tensor([0.0, 9, 0]).softmax(0)[1]))


def test_nothing_found_is_an_empty_result():
    spec = make_spec(3)
    class_logits = np.array([[0, 0, 0, 9]] * 5, np.float32)
    mask_logits = np.full((5, 8, 8), -200, np.float32)
    geometry = ((32, 32), (20, 32), (40, 64))
    for task in (postprocess.panoptic, postprocess.instance):
        result = task(class_logits, mask_logits, *geometry, spec)
        assert result.segments == ()
        assert result.label_map.shape == (40, 64)
        assert not result.label_map.any()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.tuples(st.integers(1, 32), st.integers(1, 32)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
)  # fmt: skip
def test_results_hold_together(seed, queries, classes, content, image):
    class_logits, mask_logits = logits(seed, queries, classes, (32, 32))
    spec = make_spec(classes, object_threshold=0.3, overlap_threshold=0.5)
    geometry = ((32, 32), content, image)

    panoptic = postprocess.panoptic(class_logits, mask_logits, *geometry, spec)
    assert [s.id for s in panoptic.segments] == list(range(1, len(panoptic.segments) + 1))
    assert sum(s.area for s in panoptic.segments) == np.count_nonzero(panoptic.label_map)
    stuff = [s.label_id for s in panoptic.segments if not s.is_thing]
    assert len(stuff) == len(set(stuff))

    semantic = postprocess.semantic(class_logits, mask_logits, *geometry, spec)
    assert sum(s.area for s in semantic.segments) == image[0] * image[1]
    assert {s.id for s in semantic.segments} == set(np.unique(semantic.label_map).tolist())

    instance = postprocess.instance(class_logits, mask_logits, *geometry, spec)
    scores = [s.score for s in instance.segments]
    assert scores == sorted(scores)
    top = np.zeros(image, np.int32)
    for s in instance.segments:
        top[s.mask] = s.id
    np.testing.assert_array_equal(top, instance.label_map)

    for result in (panoptic, semantic, instance):
        for s in result.segments:
            ys, xs = np.nonzero(s.mask)
            assert s.area == len(xs) > 0
            assert s.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_bands_do_not_show(monkeypatch):
    class_logits, mask_logits = logits(6, 20, 4, (64, 64))
    for order in ("image", "padded"):
        spec = make_spec(4, semantic_order=order)
        whole = postprocess.semantic(class_logits, mask_logits, (64, 64), (50, 64), (100, 128), spec).label_map
        with monkeypatch.context() as patch:
            patch.setattr(postprocess, "BAND_VALUES", 20 * 128 * 3)
            banded = postprocess.semantic(class_logits, mask_logits, (64, 64), (50, 64), (100, 128), spec).label_map
        assert flips(whole, banded) <= 1e-4


def test_what_does_not_fit_is_refused():
    class_logits, mask_logits = logits(7, 4, 3, (32, 32))
    geometry = ((32, 32), (32, 32), (32, 32))
    unknown = make_spec(3)
    unknown = dataclasses.replace(unknown, labels=tuple(dataclasses.replace(x, is_thing=None) for x in unknown.labels))
    broken = mask_logits.copy()
    broken[0, 0, 0] = np.nan
    cases = [
        (postprocess.panoptic, class_logits, mask_logits, geometry, unknown, "which classes are things"),
        (postprocess.semantic, class_logits, mask_logits, geometry, make_spec(9), "expected 9 classes"),
        (postprocess.semantic, class_logits[None], mask_logits[None], geometry, make_spec(3), "of one image"),
        (postprocess.instance, class_logits[:2], mask_logits, geometry, make_spec(3), "of one image"),
        (postprocess.panoptic, class_logits, broken, geometry, make_spec(3), "finite"),
        (
            postprocess.semantic,
            class_logits,
            mask_logits,
            ((32, 32), (40, 32), (9, 9)),
            make_spec(3),
            "within the padded",
        ),
    ]
    for function, classes, masks, sizes, spec, message in cases:
        with pytest.raises(InputError, match=message):
            function(classes, masks, *sizes, spec)
