"""Half-precision storage: the weights of an ONNX file as float16, each with a Cast to float32 behind it.

    half = store_half(proto)      # about half the size

ONNX Runtime folds the casts when it loads the file, so that a CPU calculates in float32 with rounded weights.

What is rounded: the weights of convolutions and matrix products with at least 1024 elements. What is not: norms,
biases, embeddings, and above all coordinates, where half precision moves a sampling point by up to 1/8 pixel.
No torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from mask2edge.export.backends import HALF_STORAGE
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.stage_comparison import (
    INJECTED,
    TOLERANCE,
    compare,
    decides,
    noise,
    report,
    require,
    runner,
    with_injected_masks,
    with_stage_outputs,
)
from mask2edge.runtime.command_line import say

WEIGHTED = ("Conv", "MatMul", "Gemm")  # their second input is a weight
SMALLEST = 1024  # elements; below this, rounding saves nothing
LARGEST_HALF = 65504.0
STORED = ".half"  # suffix of a stored tensor's name


def store_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with float16 weights and casts; precision in its metadata is fp16."""
    half = _with_weights(proto, lambda values: values.astype(np.float16))
    casts = []
    for weight in half.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT16 and not weight.name.endswith(STORED):
            name, weight.name = weight.name, weight.name + STORED
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return _relabelled(half, "fp16")


def store_full(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The reverse of `store_half`: float32 weights, with the values that rounding left."""
    full = onnx.ModelProto()
    full.CopyFrom(proto)
    for weight in full.graph.initializer:
        if weight.name.endswith(STORED):
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name.removesuffix(STORED)))
    nodes = [node for node in full.graph.node if not (node.op_type == "Cast" and node.input[0].endswith(STORED))]
    del full.graph.node[:]
    full.graph.node.extend(nodes)
    return _relabelled(full, "fp32")


def store_half_verified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`store_half`, compared with the same network calculated with rounded float32 weights.

    Raises RuntimeError where a stage differs, InputError where the graph cannot run on this machine.
    """
    half = store_half(proto)
    rounded = _with_weights(proto, lambda values: values.astype(np.float16).astype(np.float32))
    batch, height, width = Description.from_metadata(metadata_of(proto), "the graph").profile.min
    pixels = noise(batch, height, width)
    expected = runner(with_stage_outputs(rounded))({"pixels": pixels})
    masks = {INJECTED + name: value for name, value in expected.items() if decides(name)}
    expected = runner(with_injected_masks(rounded))({"pixels": pixels, **masks})
    comparison = compare(expected, runner(with_injected_masks(half)), runner(with_stage_outputs(half)), pixels)
    say(f"{HALF_STORAGE}; compared with the same network on rounded weights:")
    report(comparison)
    require(comparison, TOLERANCE)
    return half


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def _with_weights(proto: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A copy in which `change` went over every weight that half precision may round."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    weights = {node.input[1] for node in copy.graph.node if node.op_type in WEIGHTED}
    for tensor in copy.graph.initializer:
        if tensor.name not in weights or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size >= SMALLEST and np.abs(values).max() <= LARGEST_HALF:
            tensor.CopyFrom(numpy_helper.from_array(change(values), tensor.name))
    return copy


def _relabelled(proto: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    for entry in proto.metadata_props:
        if entry.key == "mask2edge.precision":
            entry.value = precision
    return proto
