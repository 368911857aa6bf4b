"""What only an engine for ONNX Runtime on the CPU has in its graph: nodes that one op of ours does in one pass.

    fused = fuse_for_cpu(onnx.load("artifacts/street-lite.onnx"))

An exported file stays one that TensorRT takes as well, which fuses such nodes by itself. Every rewrite is exact.
No torch.

- `x + residual`, then LayerNormalization: AddLayerNormalization.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import NodeProto, helper

from mask2edge.trt_plugins import OP_DOMAIN

Shape = list[int | str]


def fuse_for_cpu(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with fused nodes. A model of standard operators alone stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if any(entry.domain == OP_DOMAIN for entry in copy.opset_import):
        _fuse_normalizations(copy.graph)
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


def _known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Sizes, or the names of dynamic ones; a tensor with an axis that has neither is left out."""
    shapes = {}
    for value in (*graph.value_info, *graph.input):
        shape: Shape = [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        if shape and all(shape):
            shapes[value.name] = shape
    return shapes
