"""Writes types into a graph: a Cast where a tensor has another type than its reader, weights in the type of their use.

    write_types(proto, Dataflow(proto), {"conv2d_1": "fp16", "layer_norm": "fp32"})      # in place

Own code, because the types must be exactly these: onnxconverter-common's float16 converter has no bfloat16, puts a Cast
pair around every node that it leaves in float32 (two neighbours would round between them), raises weights of small
magnitude, and knows nothing of an operator whose inputs have types of their own, as ours do.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mask2edge.export.dataflow import FLOATS, Dataflow
from mask2edge.export.half_types import TYPES, to_half

# (operator, input): float32 whatever the node calculates in, or read in whatever type the tensor has.
ALWAYS_FP32 = {("MultiscaleDeformableAttention", 3), ("MaskedAttention", 3)}
AS_IT_IS = {("Resize", 1), ("Resize", 2), ("Shape", 0), ("Size", 0)}
# Raw offsets and logits of the sampling share a type of their own: float32 where one of them is.
SAMPLING = ("MultiscaleDeformableAttention", (1, 2))


def write_types(proto: onnx.ModelProto, flow: Dataflow, precisions: Mapping[str, str]) -> None:
    """`precisions`: first output of a node -> the type in which it calculates and gives its result."""
    writer = _Writer(flow)
    for node in flow.nodes:
        writer.write(node, precisions.get(node.output[0], ""))
    graph = proto.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(writer.nodes)
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(tensor for name, tensor in writer.constants.items() if name in used)


class _Writer:
    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {name: _copied(t) for name, t in flow.initializers.items()}
        self.precision = dict.fromkeys(flow.types, "fp32")  # of each tensor, once it is written
        self.available: set[str] = set()  # tensors that a Cast has made

    def write(self, node: NodeProto, precision: str) -> None:
        written = NodeProto()
        written.CopyFrom(node)
        for index, name in enumerate(node.input):
            if self.flow.is_float(name) and (node.op_type, index) not in AS_IT_IS:
                written.input[index] = self.read(name, self.wanted(node, index, precision))
        floats = [name for name in node.output if self.flow.is_float(name)]
        self.precision.update(dict.fromkeys(floats, precision))
        if floats and precision != "fp32":
            _set_type_attributes(written, precision)
        outputs = [name for name in floats if name in self.flow.outputs and precision != "fp32"]
        for name in outputs:  # the network's outputs stay float32 under their names
            written.output[list(written.output).index(name)] = f"{name}.{precision}"
        self.nodes.append(written)
        for name in outputs:
            self.nodes.append(_cast(f"{name}.{precision}", name, "fp32"))
            self.available.add(f"{name}.{precision}")
            self.precision[name] = "fp32"

    def wanted(self, node: NodeProto, index: int, precision: str) -> str:
        if (node.op_type, index) in ALWAYS_FP32:
            return "fp32"
        if node.op_type == SAMPLING[0] and index in SAMPLING[1]:
            types = {self.precision[node.input[other]] for other in SAMPLING[1]}
            return precision if types == {precision} else "fp32"
        return precision

    def read(self, name: str, precision: str) -> str:
        """The name under which the tensor can be read in this type."""
        if self.precision[name] == precision:
            return name
        typed = f"{name}.{precision}"
        if name in self.flow.initializers:
            if typed not in self.constants:
                self.constants[typed] = to_half(numpy_helper.to_array(self.flow.initializers[name]), typed, precision)
        elif typed not in self.available:
            self.nodes.append(_cast(name, typed, precision))
            self.available.add(typed)
        return typed


def _cast(source: str, target: str, precision: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast:{target}", to=TYPES[precision])


def _set_type_attributes(node: NodeProto, precision: str) -> None:
    """Of the operators that name their result's type."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
            attribute.i = TYPES[precision]
        elif node.op_type == "ConstantOfShape" and attribute.name == "value":
            attribute.t.CopyFrom(to_half(numpy_helper.to_array(attribute.t), attribute.t.name, precision))


def _copied(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy
