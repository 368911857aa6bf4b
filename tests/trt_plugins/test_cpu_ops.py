"""The CPU operators inside ONNX Runtime against float64 references, on the table that the benchmark times too."""

import os
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from mask2edge.benchmarks.cpu_kernel_cases import CPU_SMALL, CPU_TIMED, ConvolutionCase, NormalizationCase, fed
from mask2edge.benchmarks.kernel_cases import (
    CASES,
    SMALL,
    TIMED,
    Case,
    DeformableCase,
    MaskedCase,
    fused_session,
    one_node_model,
    session_of,
)
from mask2edge.train.model.deformable_attention import multiscale_deformable_attention
from mask2edge.train.model.masked_attention import masked_attention
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing


@pytest.fixture(scope="module")
def library() -> Path:
    found = onnxruntime_ops_library()
    if found is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") == "1":
        pytest.fail(f"MASK2EDGE_REQUIRE_OPS=1, but {why_missing()}")
    if found is None:
        pytest.skip(why_missing())
    return found


def torch_reference(case: Case, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The model's own code, in float64."""
    tensors = {name: torch.from_numpy(x).double() for name, x in inputs.items() if x.dtype == np.float32}
    if isinstance(case, DeformableCase):
        return multiscale_deformable_attention(
            **tensors, spatial_shapes=case.shapes, num_heads=case.heads, num_points=case.points
        ).numpy()
    return masked_attention(**tensors, num_heads=case.heads).numpy()


@pytest.mark.parametrize(("name", "threads"), [(name, 1) for name in CASES] + [(name, 2) for name in TIMED])
def test_equals_the_models_own_code(library: Path, name: str, threads: int) -> None:
    case = CASES[name]
    inputs = case.inputs(seed=1)
    got = fused_session(case, library, threads).run(None, inputs)[0]
    expected = torch_reference(case, inputs)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    # Offsets of 10,000 pixels have coordinates exact to 1/2000 pixel; hardly one of them is inside.
    tolerance = 1e-3 if name == "far-outside" else 2e-5
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_equals_the_definition(library: Path, name: str) -> None:
    case = SMALL[name]
    inputs = case.inputs(seed=2)
    got = fused_session(case, library).run(None, inputs)[0]
    expected = case.reference(inputs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 if name == "far-outside" else 2e-5)


@pytest.mark.parametrize("name", [*CPU_SMALL, *CPU_TIMED])
def test_kernels_of_the_cpu_alone_equal_the_definition(library: Path, name: str) -> None:
    case = {**CPU_SMALL, **CPU_TIMED}[name]
    inputs = case.inputs()
    got = fused_session(case, library, threads=2).run(None, fed(case, inputs))[0]
    # Sums of 2304 products go through transforms with factors up to 8; far from zero, the mean's own rounding shows.
    tolerance = {"convolution-128": 2e-4, "far-from-zero": 1e-3}.get(name, 3e-5)
    np.testing.assert_allclose(got, case.reference(inputs), rtol=0, atol=tolerance)


def test_one_session_serves_changing_shapes(library: Path) -> None:
    session = fused_session(DeformableCase(((2, 2), (3, 1)), heads=2), library)
    for case in (
        DeformableCase(((7, 5), (4, 3)), heads=2, batch=2),
        DeformableCase(((1, 1), (9, 9)), heads=2, head_dim=8, queries=3),
    ):
        inputs = case.inputs()
        np.testing.assert_allclose(session.run(None, inputs)[0], torch_reference(case, inputs), atol=2e-5)


def test_masks_decide_at_zero_and_an_empty_one_sees_all(library: Path) -> None:
    case = MaskedCase(3, 1, 4, 0.5, heads=1, head_dim=2)
    inputs = case.inputs()
    inputs["mask_logits"] = np.array(
        [[[0.0, -1e-30, -1, -np.inf], [-1, -1, -1, -1], [-0.0, -1, np.inf, np.nan]]], np.float32
    )
    got = fused_session(case, library).run(None, inputs)[0][0]
    np.testing.assert_array_equal(got[0], inputs["value"][0, 0])
    everything = dict(inputs, mask_logits=np.zeros((1, 3, 4), np.float32))
    np.testing.assert_allclose(got[1], fused_session(case, library).run(None, everything)[0][0, 1], atol=1e-7)
    scores = inputs["query"][0, 2] @ inputs["key"][0, [0, 2]].T / np.sqrt(2)
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(got[2], weights @ inputs["value"][0, [0, 2]], atol=1e-6)


@pytest.mark.parametrize("case", [DeformableCase(((3, 4),), heads=2), MaskedCase(5, 3, 4, 0.5, heads=2)])
def test_same_bits_on_any_number_of_threads_and_in_any_batch(library: Path, case: Case) -> None:
    inputs = case.inputs()
    one = fused_session(case, library, 1).run(None, inputs)[0]
    np.testing.assert_array_equal(fused_session(case, library, 3).run(None, inputs)[0], one)
    twice = {n: x if n in ("spatial_shapes", "reference_points") else np.repeat(x, 2, 0) for n, x in inputs.items()}
    np.testing.assert_array_equal(fused_session(case, library).run(None, twice)[0], np.repeat(one, 2, 0))


@pytest.mark.parametrize("case", [DeformableCase(((3, 4),), heads=2), MaskedCase(5, 3, 4, 0.5, heads=2)])
def test_output_shape_is_inferred(library: Path, case: Case) -> None:
    first, second, third = fused_session(case, library).get_outputs()[0].shape
    if isinstance(case, DeformableCase):
        assert (first, second, third) == ("value_0", "offsets_1", "value_2")
    else:
        assert (first, second, third) == ("query_0", "query_1", "query_2")


DEFORMABLE = DeformableCase(((3, 4), (2, 2)), heads=2, head_dim=8, points=3, batch=2, queries=5)
MASKED = MaskedCase(5, 3, 4, 0.5, heads=2, head_dim=8)
NORMALIZATION = NormalizationCase((2, 5), channels=8)
FLOAT = np.float32

BAD = {
    "value rank": (DEFORMABLE, {"value": np.zeros((2, 16), FLOAT)}, {}, "value must be [N, S, M*D], got [2, 16]"),
    "offsets rank": (DEFORMABLE, {"offsets": np.zeros((5, 24), FLOAT)}, {}, "got [5, 24]"),
    "heads": (DEFORMABLE, {}, {"num_heads": 3}, "multiple of num_heads = 3, got [2, 16, 16]"),
    "zero heads": (DEFORMABLE, {}, {"num_heads": 0}, "must be 1 or more, got 0 and 3"),
    "negative points": (DEFORMABLE, {}, {"num_points": -1}, "must be 1 or more, got 2 and -1"),
    "points": (DEFORMABLE, {}, {"num_points": 4}, "offsets must be [2, 5, 32]"),
    "offsets": (DEFORMABLE, {"offsets": np.zeros((2, 5, 20), FLOAT)}, {}, "offsets must be [2, 5, 24]"),
    "logits": (DEFORMABLE, {"logits": np.zeros((2, 4, 12), FLOAT)}, {}, "logits must be [2, 5, 12]"),
    "batch": (DEFORMABLE, {"value": np.zeros((1, 16, 16), FLOAT)}, {}, "offsets must be [1, 5, 24]"),
    "reference": (
        DEFORMABLE,
        {"reference_points": np.zeros((3, 5, 2), FLOAT)},
        {},
        "reference_points must be [1 or 2, 5, 2], got [3, 5, 2]",
    ),
    "shapes rank": (DEFORMABLE, {"spatial_shapes": np.zeros(4, np.int32)}, {}, "must be [L, 2] with L >= 1, got [4]"),
    "no levels": (DEFORMABLE, {"spatial_shapes": np.zeros((0, 2), np.int32)}, {}, "got [0, 2]"),
    "area": (
        DEFORMABLE,
        {"spatial_shapes": np.array([[3, 4], [2, 3]], np.int32)},
        {},
        "must add up to value's S = 16, got 18",
    ),
    "negative size": (
        DEFORMABLE,
        {"spatial_shapes": np.array([[-3, -4], [2, 2]], np.int32)},
        {},
        "must be 1 or more, got [-3, -4] at level 0",
    ),
    "huge size": (
        DEFORMABLE,
        {"spatial_shapes": np.array([[2**31 - 1, 2**31 - 1], [2, 2]], np.int32)},
        {},
        "must add up to value's S = 16",
    ),
    "query rank": (MASKED, {"query": np.zeros((5, 16), FLOAT)}, {}, "query must be [N, Q, M*D], got [5, 16]"),
    "key rank": (MASKED, {"key": np.zeros((12, 16), FLOAT)}, {}, "key must be [N, S, M*D], got [12, 16]"),
    "masked heads": (MASKED, {}, {"num_heads": 5}, "multiple of num_heads = 5, got [1, 5, 16]"),
    "masked zero heads": (MASKED, {}, {"num_heads": 0}, "num_heads must be 1 or more, got 0"),
    "no keys": (
        MASKED,
        {"key": np.zeros((1, 0, 16), FLOAT), "value": np.zeros((1, 0, 16), FLOAT)},
        {},
        "1 to 2^31 - 1 rows, got [1, 0, 16]",
    ),
    "key channels": (MASKED, {"key": np.zeros((1, 12, 8), FLOAT)}, {}, "key must be [1, 12, 16]"),
    "value": (MASKED, {"value": np.zeros((1, 11, 16), FLOAT)}, {}, "value must be [1, 12, 16] (as key), got [1, 11"),
    "residual": (NORMALIZATION, {"residual": np.zeros((2, 4, 8), FLOAT)}, {}, "residual must be [2, 5, 8] (as x), got"),
    "scale": (NORMALIZATION, {"scale": np.zeros(7, FLOAT)}, {}, "scale must be [8] ([C], x's last axis), got [7]"),
    "bias": (NORMALIZATION, {"bias": np.zeros((8, 1), FLOAT)}, {}, "bias must be [8] ([C], x's last axis), got [8, 1]"),
    "no channels": (
        NORMALIZATION,
        {name: np.zeros((2, 0), FLOAT) for name in ("x", "residual")},
        {},
        "x must be [..., C] with C of 1 or more, got [2, 0]",
    ),
    "mask": (MASKED, {"mask_logits": np.zeros((1, 12, 5), FLOAT)}, {}, "mask_logits must be [1, 5, 12]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(library: Path, name: str) -> None:
    case, changes, attributes, message = BAD[name]
    inputs = case.inputs() | changes
    session = session_of(one_node_model(case.op, case.attributes | attributes, inputs), library, 1)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument) as caught:
        session.run(None, inputs)
    assert f"{case.op}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", [DEFORMABLE, MASKED])
def test_a_missing_attribute_is_named(library: Path, case: Case) -> None:
    with pytest.raises(Exception, match=f"{case.op}: the integer attribute num_heads is missing"):
        session_of(one_node_model(case.op, {}, case.inputs()), library, 1)


CONVOLUTION = ConvolutionCase(8, 4, 5, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.zeros((8, 4, 3), FLOAT)}, "weight must be [O, 4, 3, 3] with O of 1 or more, got [8, 4, 3]"),
        (
            {"weight": np.zeros((8, 4, 5, 5), FLOAT)},
            "weight must be [O, 4, 3, 3] with O of 1 or more, got [8, 4, 5, 5]",
        ),
        ({"bias": np.zeros(7, FLOAT)}, "bias must be [8] ([O], one for each filter), got [7]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_at_once(
    library: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    model = one_node_model(CONVOLUTION.op, CONVOLUTION.attributes, CONVOLUTION.inputs() | changes, ("weight", "bias"))
    with pytest.raises(Exception, match=re.escape(f"Convolution3x3: {message}")):
        session_of(model, library, 1)


def test_weights_that_change_are_refused(library: Path) -> None:
    model = one_node_model(CONVOLUTION.op, CONVOLUTION.attributes, CONVOLUTION.inputs(), ("bias",))
    with pytest.raises(Exception, match="Convolution3x3: weight must be constant"):
        session_of(model, library, 1)


def test_a_map_of_other_channels_is_refused(library: Path) -> None:
    with pytest.raises(Exception, match=re.escape("Convolution3x3: weight must be [O, 3, 3, 3]")):
        fused_session(CONVOLUTION, library).run(None, {"x": np.zeros((1, 3, 5, 6), FLOAT)})


def test_a_missing_epsilon_is_named(library: Path) -> None:
    with pytest.raises(Exception, match="AddLayerNormalization: the float attribute epsilon is missing"):
        session_of(one_node_model(NORMALIZATION.op, {}, NORMALIZATION.inputs()), library, 1)
