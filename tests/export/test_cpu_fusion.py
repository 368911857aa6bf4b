"""Nodes fused for the CPU: the same numbers, and left alone where one op would not be the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_export import FIXED

from mask2edge.export.cpu_fusion import fuse_for_cpu
from mask2edge.trt_plugins import OP_DOMAIN, onnxruntime_ops_library, why_missing

ROWS, CHANNELS = 6, 8


def network(custom: bool = True, shape=(ROWS, CHANNELS), second=(ROWS, CHANNELS), axis=-1, also_read=False, bias=True):
    """x + y, LayerNormalization of it, and a second output that reads the sum where `also_read`."""
    declared = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", second))]
    inputs = ["sum", "scale", *(["bias"] if bias else [])]
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", inputs, ["output"], name="norm", axis=axis, epsilon=0.25),
    ]
    outputs = ["output"]
    if also_read:
        nodes.append(helper.make_node("Neg", ["sum"], ["negative"]))
        outputs.append("negative")
    length = CHANNELS if axis == -1 else ROWS * CHANNELS
    random = np.random.default_rng(0)
    values = {name: random.normal(size=length).astype(np.float32) for name in inputs[1:]}
    if axis != -1:
        values = {name: value.reshape(ROWS, CHANNELS) for name, value in values.items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        declared,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(OP_DOMAIN, 1)] if custom else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def run(proto: onnx.ModelProto, feeds) -> list[np.ndarray]:
    library = onnxruntime_ops_library()
    if library is None:
        pytest.skip(why_missing())
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)


def test_a_normalised_sum_becomes_one_node():
    proto = network()
    fused = fuse_for_cpu(proto)
    assert ops(proto) == ["Add", "LayerNormalization"]
    assert ops(fused) == ["AddLayerNormalization"]
    assert fused.graph.node[0].name == "norm"
    random = np.random.default_rng(1)
    feeds = {name: random.normal(size=(ROWS, CHANNELS)).astype(np.float32) for name in ("x", "y")}
    np.testing.assert_allclose(run(fused, feeds)[0], run(proto, feeds)[0], atol=1e-6)


def test_named_sizes_are_sizes():
    assert ops(fuse_for_cpu(network(shape=("rows", CHANNELS), second=("rows", CHANNELS)))) == ["AddLayerNormalization"]


@pytest.mark.parametrize(
    "changes",
    [
        {"custom": False},  # whoever wants standard operators gets none of ours
        {"second": (CHANNELS,)},  # broadcast
        {"shape": (None, CHANNELS), "second": (None, CHANNELS)},  # perhaps broadcast
        {"axis": 0},
        {"also_read": True},  # the sum is needed besides
        {"bias": False},
    ],
    ids=str,
)
def test_what_is_not_the_same_stays(changes):
    proto = network(**changes)
    assert fuse_for_cpu(proto) == proto


def convolution(filters=32, channels=33, relu=True, bias=True, also_read=False, **attributes):
    """x -> Conv -> Relu; `also_read`: what is before the Relu is an output too."""
    random = np.random.default_rng(0)
    size = attributes.get("kernel_shape", [3, 3])
    group = attributes.get("group", 1)
    values = {"weight": random.normal(size=(filters, channels // group, *size)).astype(np.float32)}
    if bias:
        values["bias"] = random.normal(size=filters).astype(np.float32)
    attributes = {"kernel_shape": size, "pads": [1, 1, 1, 1], **attributes}
    nodes = [helper.make_node("Conv", ["x", *values], ["before"], name="conv", **attributes)]
    if relu:
        nodes.append(helper.make_node("Relu", ["before"], ["output"]))
    outputs = ["output"] * relu + ["before"] * (also_read or not relu)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(OP_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["Convolution3x3"]),
        ({"relu": False}, ["Convolution3x3"]),
        ({"bias": False}, ["Convolution3x3"]),
        ({"also_read": True}, ["Convolution3x3", "Relu"]),
    ],
    ids=str,
)
def test_a_convolution_is_replaced(changes, expected):
    proto = convolution(**changes)
    fused = fuse_for_cpu(proto)
    assert ops(fused) == expected
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 33, 11, 18)).astype(np.float32)}
    for found, wanted in zip(run(fused, feeds), run(proto, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)  # of values up to 60


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"pads": [0, 0, 2, 2]},
        {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]},
        {"group": 33, "filters": 33},
        {"filters": 31},
        {"channels": 31},
        {"filters": 257},
    ],
    ids=str,
)
def test_other_convolutions_stay(changes):
    proto = convolution(**changes)
    assert fuse_for_cpu(proto) == proto


def test_the_network_is_the_same(exported):
    """Two normalisations in the encoder layer and three in each of four decoder layers follow a sum."""
    proto = exported("custom", FIXED)
    fused = fuse_for_cpu(proto)
    assert ops(fused).count("AddLayerNormalization") == 2 + 4 * 3
    assert ops(fused).count("LayerNormalization") == ops(proto).count("LayerNormalization") - 14
    assert "Convolution3x3" in ops(fused)
    pixels = np.random.default_rng(0).normal(size=(1, 3, *FIXED.opt[1:])).astype(np.float32)
    for found, expected in zip(run(fused, {"pixels": pixels}), run(proto, {"pixels": pixels}), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
