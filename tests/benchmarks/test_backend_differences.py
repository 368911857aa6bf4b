"""What compare_backends.py measures of a pair of arrays, and what it says of it; against NumPy."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mask2edge.benchmarks.backends.differences import TOLERANCES, difference, first_divergence, first_flip, relative_l2
from mask2edge.runtime.results import Segment, Segmentation

pytest.importorskip("torch")
pytest.importorskip("polygraphy")

from mask2edge.benchmarks.backends.comparison import Backend, Outcome
from mask2edge.benchmarks.backends.predictions import class_map
from mask2edge.benchmarks.backends.report import failure_lines, failures, verdict

FP32 = TOLERANCES["fp32"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=1, max_size=30))
def test_a_difference_is_numpys(pairs):
    found, expected = (np.array(x, np.float32) for x in zip(*pairs, strict=True))
    assume(expected.any())
    one = difference("decoder.0.mask_logits", found, expected, FP32)
    assert one.flips == sum((a >= 0) != (b >= 0) for a, b in pairs)
    assert one.max_abs == max(abs(float(a) - float(b)) for a, b in zip(found, expected, strict=True))
    exact = np.sqrt(np.square(found.astype(float) - expected).sum() / np.square(expected.astype(float)).sum())
    assert one.relative_l2 == pytest.approx(exact)
    same = difference("decoder.0.mask_logits", expected, expected, FP32)
    assert (same.relative_l2, same.flips, bool(same)) == (0, 0, True)


@pytest.mark.parametrize(
    ("stage", "found", "expected", "words"),
    [
        ("class_logits", [1.0, np.nan], [1.0, 2.0], "class logits, 1 of 2 values not finite"),
        ("mask_logits", [[1.0]], [1.0], "mask logits, shape [1, 1], not [1]"),
        ("label_map", [1, 1, 1, 2], [1, 1, 1, 1], "label map, 1 of 4 pixels changed"),
        (
            "decoder.3.mask_logits",
            [1.0, -1e-6],
            [1.0, 1e-6],
            "attention mask, 1 of 2 bits flipped, relative L2 2.0e-06",
        ),
        ("pixel_decoder.level8", [1.1], [1.0], "memory, stride 8, relative L2 1.0e-01"),
        ("class_logits", [1.0], [0.0], "class logits, values where the reference has zeros alone"),
    ],
)
def test_what_a_divergence_says(stage, found, expected, words):
    kind = np.int32 if stage == "label_map" else np.float32
    one = difference(stage, np.array(found, kind), np.array(expected, kind), FP32)
    assert not one
    assert verdict([one]).startswith("first divergence: ")
    assert words in verdict([one])
    json.dumps(dataclasses.asdict(one), allow_nan=False)


def test_classes_do_not_change_with_the_numbers_of_segments():
    label_map = np.array([[0, 1], [2, 2]], np.int32)
    segments = [Segment(i, label, "", True, 1.0, 1, (0, 0, 1, 1), label_map) for i, label in ((1, 7), (2, 4), (3, 5))]
    panoptic = Segmentation(label_map, tuple(segments), "panoptic", ())
    np.testing.assert_array_equal(class_map(panoptic), [[-1, 7], [4, 4]])
    semantic = Segmentation(label_map, (), "semantic", ())
    np.testing.assert_array_equal(class_map(semantic), label_map)


def test_the_first_is_the_first_in_order():
    good = difference("decoder.0.mask_logits", np.ones(20000, np.float32), np.ones(20000, np.float32), FP32)
    values = np.ones(20000, np.float32)
    values[0] = 1e-9
    near = difference("decoder.1.mask_logits", -values, -values + (values < 1) * np.float32(2e-9), FP32)
    far = difference("decoder.1.queries", np.full(3, 2, np.float32), np.ones(3, np.float32), FP32)
    assert (near.flips, bool(near)) == (1, True)  # a bit at zero may flip
    assert first_flip([good, near, far]) is near
    assert first_divergence([good, near, far]) is far
    assert verdict([good, near, far]) == (
        "first divergence: decoder layer 1's queries, relative L2 1.0e+00; "
        "first flip: decoder layer 1's attention mask, 1 of 20000 bits flipped"
    )
    assert first_divergence([good, near]) is first_flip([good]) is None


def test_shapes_that_differ_are_infinitely_far():
    assert relative_l2(np.ones(3), np.ones(4)) == np.inf


GOOD = np.ones(1000, np.float32)
FAR = {  # stage -> beyond the tolerance
    stage: difference(stage, 2 * GOOD, GOOD, FP32) for stage in ("decoder.0.queries", "class_logits", "label_map")
}
NEAR = [difference(stage, GOOD, GOOD, FP32) for stage in ("decoder.0.queries", "class_logits", "label_map")]
RUNNER = object()


def outcome(name, *far):
    """A backend of whose three stages these are beyond the tolerance."""
    return Outcome(Backend(name, "", RUNNER), tuple(FAR[near.stage] if near.stage in far else near for near in NEAR))


ABSENT = Outcome(Backend("tensorrt", "", obstacle="no GPU"), not_run="no GPU")
BROKEN = Outcome(Backend("tensorrt", "", RUNNER), not_run="could not build")
INNER, LOGITS, MAP = "decoder.0.queries", "class_logits", "label_map"
QUERIES_SAID = "decoder layer 0's queries, relative L2 1.0e+00"
FAILURES = [  # outcomes, what counts, what fails, the last line
    ([outcome("a")], "stages", {}, "1 backends compared by their stages: 0 diverged, 0 failed, 0 not there"),
    ([outcome("a", INNER)], "stages", {"a": QUERIES_SAID}, "1 backends compared by their stages: 1 diverged, 0 failed"),
    ([outcome("a", INNER)], "results", {}, "1 backends compared by their results: 0 diverged"),
    ([outcome("a", INNER, LOGITS)], "stages", {"a": QUERIES_SAID}, "1 backends compared"),
    ([outcome("a", INNER, LOGITS)], "results", {"a": "class logits, relative L2 1.0e+00"}, "1 backends compared"),
    ([outcome("a", INNER, LOGITS)], "pixels", {}, "1 backends compared by their pixels: 0 diverged"),
    ([outcome("a", MAP)], "pixels", {"a": "label map, 1000 of 1000 pixels changed"}, "1 backends compared"),
    ([outcome("a"), ABSENT], "pixels", {}, "1 backends compared by their pixels: 0 diverged, 0 failed, 1 not there"),
    (
        [outcome("a"), outcome("b", MAP), BROKEN], "pixels",
        {"b": "label map, 1000 of 1000 pixels changed", "tensorrt": "could not build"},
        "2 backends compared by their pixels: 1 diverged, 1 failed, 0 not there",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("outcomes", "fail_on", "expected", "line"), FAILURES, ids=[str(i) for i in range(9)])
def test_what_fails_a_comparison(outcomes, fail_on, expected, line):
    found = failures(outcomes, fail_on)
    assert found == expected
    *said, last = failure_lines({"failures": found, "fail_on": fail_on}, outcomes)
    assert last.startswith(line)
    words = {name: "FAILED  " if name == "tensorrt" else "DIVERGED" for name in found}
    assert said == [f"{words[name]} {name}: {reason}" for name, reason in expected.items()]
