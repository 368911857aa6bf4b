"""Emulated graphs: ONNX Runtime rounds where a typed graph would, and its optimiser leaves that as it is."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mask2edge.export.dataflow import Dataflow
from mask2edge.export.emulation import emulated
from mask2edge.export.half_storage import metadata_of
from mask2edge.export.half_types import TYPES, to_half
from mask2edge.export.precision import typed_graph
from mask2edge.export.stage_comparison import noise, runner

STANDARD = Path(__file__).resolve().parents[2] / "models" / "street-lite-standard.onnx"
KINDS = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
in_both_types = pytest.mark.parametrize("precision", KINDS)


def rounded(values, precision):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values, np.float32).astype(KINDS[precision]).astype(np.float32)


def model(nodes, output_shape, initializers=(), input_shape=None):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape or output_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def half(name, values, precision):
    return to_half(np.asarray(values, np.float32), name, precision)


def typed_chain(precision, *steps):
    """x -> half -> the steps, each (operator, other inputs, attributes) -> float32."""
    kind = TYPES[precision]
    nodes = [helper.make_node("Cast", ["x"], ["h0"], to=kind)]
    for index, (operator, others, attributes) in enumerate(steps):
        nodes.append(helper.make_node(operator, [f"h{index}", *others], [f"h{index + 1}"], name=operator, **attributes))
    return [*nodes, helper.make_node("Cast", [f"h{len(steps)}"], ["y"], to=TensorProto.FLOAT)]


@in_both_types
def test_casts_round_to_nearest_even_and_stay(precision):
    """Cast pairs back to back, before and after an operator, under every optimisation that ONNX Runtime has."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    special = [65504, 65519, 65520, 7e4, 2**-25, 1.5 * 2**-24, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, np.inf, np.nan]
    normal = random.standard_normal(50_000, dtype=np.float32)
    values = np.concatenate([bits, normal, np.array(special, np.float32)])
    kind = TYPES[precision]
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "third"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=kind),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    third = np.float32(1 / 3)
    found = runner(model(nodes, [None], [numpy_helper.from_array(third, "third")]))({"x": values})["y"]
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_array_equal(found, rounded(rounded(values, precision) * third, precision))


@in_both_types
def test_the_optimiser_keeps_every_cast(precision, tmp_path):
    proto = emulated(typed_graph(onnx.load(STANDARD), precision))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def roundings(graph):
        return sum(
            node.op_type == "Cast" and any(attribute.i == TYPES[precision] for attribute in node.attribute)
            for node in graph.node
        )

    assert roundings(proto.graph) > 250
    assert roundings(onnx.load(tmp_path / "optimised.onnx").graph) == roundings(proto.graph)


@in_both_types
def test_products_add_in_float32_and_round_once(precision):
    random = np.random.default_rng(0)
    x, weight, bias = (random.standard_normal(shape, dtype=np.float32) for shape in ((64, 96), (96, 32), (32,)))
    nodes = typed_chain(precision, ("MatMul", ["w"], {}), ("Add", ["b"], {}), ("Relu", [], {}))
    proto = model(nodes, [64, 32], [half("w", weight, precision), half("b", bias, precision)], [64, 96])
    found = runner(emulated(proto))({"x": x})["y"]
    product = rounded(rounded(x, precision).astype(np.float64) @ rounded(weight, precision), precision)
    expected = np.maximum(rounded(product + rounded(bias, precision), precision), 0)
    np.testing.assert_array_equal(found, rounded(found, precision))
    # float32 sums in another order may fall to the other side of a tie
    assert np.mean(found != expected) < 0.01
    np.testing.assert_allclose(found, expected, rtol=2.0 ** -(10 if precision == "fp16" else 7), atol=1e-2)


@in_both_types
def test_softmax_in_half_is_rounded_at_each_step(precision):
    x = 4 * np.random.default_rng(0).standard_normal((5, 40), dtype=np.float32)
    found = runner(emulated(model(typed_chain(precision, ("Softmax", [], {"axis": -1})), [5, 40])))({"x": x})["y"]
    values = rounded(x, precision)
    powers = rounded(np.exp(rounded(values - values.max(-1, keepdims=True), precision)), precision)
    expected = rounded(powers / rounded(powers.sum(-1, keepdims=True), precision), precision)
    assert np.mean(found != expected) < 0.02
    np.testing.assert_allclose(found, expected, rtol=2.0**-7)


def norm(operator, precision, channels):
    ones, zeros = np.ones(channels), np.zeros(channels)
    attributes = {"axis": -1} if operator == "LayerNormalization" else {}
    nodes = typed_chain(precision, (operator, ["scale", "bias"], attributes))
    shape = [2, 3, channels] if operator == "LayerNormalization" else [2, channels, 30]
    constants = [half("scale", ones, precision), half("bias", zeros, precision)]
    return emulated(model(nodes, shape, constants)), shape


@pytest.mark.parametrize("operator", ["LayerNormalization", "InstanceNormalization"])
@pytest.mark.parametrize(("precision", "bound"), [("fp16", 4e-3), ("bf16", 4e-2)])
def test_norms_in_half_are_near_until_their_squares_overflow(operator, precision, bound):
    """Squares of activations beyond 256 are beyond fp16, which is why norms are an island."""
    proto, shape = norm(operator, precision, 16)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    run = runner(proto)
    exact = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(run({"x": x})["y"], exact, atol=bound)
    large = run({"x": 1000 * x})["y"]
    if precision == "bf16":
        np.testing.assert_allclose(large, exact, atol=bound)
    else:
        assert not np.isfinite(large).all() or np.abs(large - exact).max() > 0.5


def test_every_half_tensor_holds_half_values():
    """All of the typed graph's half tensors, read out of the emulated one."""
    typed = typed_graph(onnx.load(STANDARD), "bf16")
    flow = Dataflow(typed)
    proto = emulated(typed)
    assert metadata_of(proto)["mask2edge.arithmetic"] == "emulated"
    names = [name for node in typed.graph.node for name in node.output if flow.types[name] == TensorProto.BFLOAT16]
    assert len(names) > 400
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    found = runner(proto)({"pixels": noise(1, 384, 512)})
    wrong = [name for name in names if not np.array_equal(found[name], rounded(found[name], "bf16"))]
    assert not wrong
    assert not np.array_equal(found["mask_logits"], rounded(found["mask_logits"], "bf16"))


def test_a_float32_graph_stays_as_it_is():
    full = model([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Softmax", ["r"], ["y"])], [4, 4])
    assert emulated(full) == full


def test_a_norm_over_more_axes_is_refused():
    nodes = typed_chain("fp16", ("LayerNormalization", ["scale"], {"axis": 1}))
    with pytest.raises(NotImplementedError, match="more than the last axis"):
        emulated(model(nodes, [2, 3, 4], [half("scale", np.ones((3, 4)), "fp16")]))
