"""What only an engine for ONNX Runtime on the CPU has in its graph: nodes that one op of ours does in one pass.

    fused = fuse_for_cpu(onnx.load("artifacts/street-lite.onnx"))

An exported file stays one that TensorRT takes as well, which fuses such nodes by itself. Every rewrite is exact.
No torch.

- `x + residual`, then LayerNormalization: AddLayerNormalization.
- 3×3 convolutions, with the Relu after them: Convolution3x3, a quarter of the multiplications.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mask2edge.trt_plugins import OP_DOMAIN

Shape = list[int | str]
# Of 3x3 convolutions. Fewer do not fill the matrix products. More are on small maps, where the transformed filters, of
# four times their size, cost more memory than they gain time.
LEAST_CHANNELS, MOST_CHANNELS = 32, 256


def fuse_for_cpu(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with fused nodes. A model of standard operators alone stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if any(entry.domain == OP_DOMAIN for entry in copy.opset_import):
        _fuse_normalizations(copy.graph)
        _replace_convolutions(copy.graph)
    return copy


def _fuse_normalizations(graph: onnx.GraphProto) -> None:
    additions = {node.output[0]: node for node in graph.node if node.op_type == "Add"}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    shapes = _known_shapes(graph)
    fused: dict[str, NodeProto] = {}  # output of a LayerNormalization -> what takes its place
    gone = set()
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "LayerNormalization" or len(node.input) != 3 or attributes.get("axis", -1) != -1:
            continue
        addition = additions.get(node.input[0])
        if addition is None or reads[addition.output[0]] != 1:
            continue
        first, second = (shapes.get(name) for name in addition.input)
        if first is None or first != second:  # broadcast, or unknown
            continue
        gone.add(addition.output[0])
        fused[node.output[0]] = helper.make_node(
            "AddLayerNormalization",
            [*addition.input, *node.input[1:]],
            node.output,
            name=node.name,
            domain=OP_DOMAIN,
            epsilon=attributes.get("epsilon", 1e-5),
        )
    nodes = [fused.get(node.output[0], node) for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)


def _replace_convolutions(graph: onnx.GraphProto) -> None:
    shapes = _known_shapes(graph) | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    replaced: dict[str, NodeProto] = {}  # output of a Conv, or of the Relu after it -> what takes its place
    gone = set()
    for node in graph.node:
        if node.op_type != "Conv" or not _is_plain_3x3(node, shapes):
            continue
        result, relu = node.output[0], False
        after = readers.get(result, [])
        if len(after) == 1 and after[0].op_type == "Relu" and result not in outputs:
            gone.add(result)
            result, relu = after[0].output[0], True
        inputs = list(node.input)
        if len(inputs) == 2:
            inputs.append(f"{node.output[0]}.no_bias")
            filters = shapes[node.input[1]][0]
            graph.initializer.append(numpy_helper.from_array(np.zeros(filters, np.float32), inputs[2]))
        replaced[result] = helper.make_node(
            "Convolution3x3", inputs, [result], name=node.name, domain=OP_DOMAIN, relu=int(relu)
        )
    nodes = [replaced.get(node.output[0], node) for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_plain_3x3(node: NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Stride 1, a border of 1, all channels together; and worth it."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weight = shapes.get(node.input[1], [])
    if len(weight) != 4 or weight[2:] != [3, 3] or attributes.get("group", 1) != 1:
        return False
    if any(list(attributes.get(name, [1, 1])) != [1, 1] for name in ("strides", "dilations")):
        return False
    if list(attributes.get("pads", [])) != [1, 1, 1, 1] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    filters, channels = (int(length) for length in weight[:2])
    return min(filters, channels) >= LEAST_CHANNELS and max(filters, channels) <= MOST_CHANNELS


def _known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Sizes, or the names of dynamic ones; a tensor with an axis that has neither is left out."""
    shapes = {}
    for value in (*graph.value_info, *graph.input):
        shape: Shape = [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        if shape and all(shape):
            shapes[value.name] = shape
    return shapes
