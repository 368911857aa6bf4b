"""A graph as precision sees it: who makes and reads each tensor, its type, and which nodes see the pixels.

    flow = Dataflow(proto)
    flow.types["decoder.0.mask_logits"], flow.sees_pixels(node), flow.stage_of(node)

Types are propagated here because onnx's own inference stops at operators that it does not know. No torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx
from onnx import NodeProto, TensorProto

from mask2edge.export.stage_comparison import STAGE

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators that give a tensor on with the values it has: rounding it again changes nothing.
MOVES = (
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_OUTPUT = {
    **dict.fromkeys(("Shape", "Size", "NonZero", "ArgMax", "ArgMin"), TensorProto.INT64),
    **dict.fromkeys(
        ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or", "Xor", "Not", "IsInf", "IsNaN"),
        TensorProto.BOOL,
    ),
}
# Operators whose result has the type of another input than the first: a zero point, a scale.
_TYPED_BY = {"QuantizeLinear": 2, "DequantizeLinear": 1, "Where": 1}
_INDICES = ("TopK", 1)  # the output that is not of the values' type


class Dataflow:
    """Of a model without subgraphs, its nodes in topological order, as export/to_onnx.py writes it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = [value.name for value in graph.output]
        self.producer: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        self.types: dict[str, int] = {name: tensor.data_type for name, tensor in self.initializers.items()}
        self.types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._live = {value.name for value in graph.input}  # tensors whose values depend on the pixels
        for node in self.nodes:
            for place, name in enumerate(node.output):
                self.producer[name] = node
                self.types[name] = TensorProto.INT64 if (node.op_type, place) == _INDICES else self._output_type(node)
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            if node.op_type != "Shape" and self._live.intersection(node.input):
                self._live.update(node.output)
        self._stages = self._find_stages()

    def is_float(self, tensor: str) -> bool:
        return self.types.get(tensor) in FLOATS

    def sees_pixels(self, node: NodeProto) -> bool:
        """False where the node's result follows from weights and sizes alone."""
        return not self._live.isdisjoint(node.output)

    def stage_of(self, node: NodeProto) -> str:
        """The first named boundary, or else output, of the network that needs this node."""
        return self._stages.get(node.output[0], "")

    def makers(self, tensor: str, through: Iterable[str]) -> list[NodeProto]:
        """The producer of `tensor`, and of what it reads, for as long as they are operators of `through`."""
        through = set(through)
        found: dict[str, NodeProto] = {}
        waiting = [tensor]
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is not None and node.op_type in through and node.output[0] not in found:
                found[node.output[0]] = node
                waiting.extend(node.input)
        return list(found.values())

    def _output_type(self, node: NodeProto) -> int:
        if node.op_type == "Cast":
            return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")
        if node.op_type == "ConstantOfShape":
            values = [attribute.t.data_type for attribute in node.attribute if attribute.name == "value"]
            return values[0] if values else TensorProto.FLOAT
        if node.op_type in _OUTPUT:
            return _OUTPUT[node.op_type]
        if node.op_type in _TYPED_BY:
            return self.types.get(node.input[_TYPED_BY[node.op_type]], TensorProto.UNDEFINED)
        return self.types.get(node.input[0], TensorProto.UNDEFINED)

    def _find_stages(self) -> dict[str, str]:
        """Tensor -> boundary."""
        boundaries = [name for node in self.nodes for name in node.output if STAGE.fullmatch(name)]
        stages: dict[str, str] = {}
        for boundary in [*boundaries, *self.outputs]:
            waiting = [boundary]
            while waiting:
                node = self.producer.get(waiting.pop())
                if node is not None and node.output[0] not in stages:
                    stages.update(dict.fromkeys(node.output, boundary))
                    waiting.extend(node.input)
        return stages
