"""A typed graph as ONNX Runtime on the CPU can calculate it: float32 arithmetic, each half tensor rounded to its type.

    emulated(typed_graph(proto, "bf16"))

ONNX Runtime's CPU has no bfloat16 kernels and takes float16 graphs apart in its own way, so neither shows what a typed
network calculates. Here every node that yields half values calculates in float32 on inputs that are half values, as
tensor cores do that multiply halves and add in float32, and its result is rounded by a Cast to the type and back. ONNX
Runtime's optimiser keeps such pairs, and they round to nearest even (tests/export/test_precision_emulation.py).

Normalisations and Softmax in half are taken apart first and rounded at each step: TensorRT's INormalizationLayer
calculates in the type of its input in a strongly typed network (NvInfer.h, setComputePrecision), and its parser ignores
`stash_type`. That is the pessimistic reading; a kernel that keeps float32 inside does better. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mask2edge.export.dataflow import MOVES, Dataflow
from mask2edge.export.half_types import HALVES, from_half

# Their results are among their inputs' values, so there is nothing to round.
EXACT = {*MOVES, "Relu", "ReduceMax", "Where", "Max", "Min", "MaxPool", "TopK", "Neg", "Abs"}


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy of a typed graph with its values; a graph without half tensors stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    flow = Dataflow(proto)
    writer = _Writer(flow)
    for node in flow.nodes:
        writer.write(node)
    graph = copy.graph
    del graph.node[:]
    graph.node.extend(writer.nodes)
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(numpy_helper.from_array(from_half(tensor), tensor.name))
    graph.initializer.extend(writer.constants)
    for entry in copy.metadata_props:
        if entry.key == "mask2edge.arithmetic":
            entry.value = "emulated"
    return copy


class _Writer:
    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.half = TensorProto.FLOAT16  # of the node that is being written

    def write(self, node: NodeProto) -> None:
        target, source = node.output[0], node.input[0] if node.input else ""
        self.half = self.flow.types[target]
        if node.op_type == "Cast" and self.half in HALVES:
            self.rounded(source, target)
        elif node.op_type == "Cast" and self.flow.types[source] in HALVES and self.half == TensorProto.FLOAT:
            self.add("Identity", [source], target)
        elif self.half not in HALVES or node.op_type in EXACT:
            self.nodes.append(node)
        elif node.op_type in STEPS:
            STEPS[node.op_type](self, node)
        else:
            written = NodeProto()
            written.CopyFrom(node)
            for index, name in enumerate(node.output):
                written.output[index] = f"{name}.exact"
            self.nodes.append(written)
            for name in node.output:
                self.rounded(f"{name}.exact", name)

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes))
        return output

    def rounded(self, source: str, target: str) -> str:
        self.add("Cast", [source], f"{target}.half", to=self.half)
        return self.add("Cast", [f"{target}.half"], target, to=TensorProto.FLOAT)

    def step(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node whose result is rounded."""
        return self.rounded(self.add(kind, inputs, f"{output}.exact", **attributes), output)

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def _normalise(writer: _Writer, node: NodeProto, axes: list[int], epsilon: float) -> str:
    """(x - mean) / sqrt(variance + epsilon), rounded at each step."""
    source, target = node.input[0], node.output[0]
    over = writer.constant(f"{target}.axes", np.array(axes, np.int64))
    small = writer.constant(f"{target}.epsilon", np.float32(epsilon))
    mean = writer.step("ReduceMean", [source, over], f"{target}.mean", keepdims=1)
    centred = writer.step("Sub", [source, mean], f"{target}.centred")
    squared = writer.step("Mul", [centred, centred], f"{target}.squared")
    variance = writer.step("ReduceMean", [squared, over], f"{target}.variance", keepdims=1)
    shifted = writer.step("Add", [variance, small], f"{target}.shifted")
    deviation = writer.step("Sqrt", [shifted], f"{target}.deviation")
    return writer.step("Div", [centred, deviation], f"{target}.normalised")


def _layer_normalisation(writer: _Writer, node: NodeProto) -> None:
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if options.get("axis", -1) != -1:
        raise NotImplementedError(f"{node.name}: LayerNormalization over more than the last axis in half")
    normalised = _normalise(writer, node, [-1], options.get("epsilon", 1e-5))
    scaled = writer.step("Mul", [normalised, node.input[1]], f"{node.output[0]}.scaled")
    if len(node.input) > 2:
        writer.step("Add", [scaled, node.input[2]], node.output[0])
    else:
        writer.add("Identity", [scaled], node.output[0])


def _instance_normalisation(writer: _Writer, node: NodeProto) -> None:
    """Of three axes, as the exporter writes a group norm; scale and bias are one value a channel."""
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    target = node.output[0]
    normalised = _normalise(writer, node, [2], options.get("epsilon", 1e-5))
    axis = writer.constant(f"{target}.last", np.array([1], np.int64))
    scale, bias = (writer.add("Unsqueeze", [name, axis], f"{target}.{name}") for name in node.input[1:])
    scaled = writer.step("Mul", [normalised, scale], f"{target}.scaled")
    writer.step("Add", [scaled, bias], target)


def _softmax(writer: _Writer, node: NodeProto) -> None:
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    source, target = node.input[0], node.output[0]
    over = writer.constant(f"{target}.axes", np.array([options.get("axis", -1)], np.int64))
    highest = writer.add("ReduceMax", [source, over], f"{target}.highest", keepdims=1)
    shifted = writer.step("Sub", [source, highest], f"{target}.shifted")
    powers = writer.step("Exp", [shifted], f"{target}.powers")
    total = writer.step("ReduceSum", [powers, over], f"{target}.total", keepdims=1)
    writer.step("Div", [powers, total], target)


STEPS: dict[str, Callable[[_Writer, NodeProto], None]] = {
    "LayerNormalization": _layer_normalisation,
    "InstanceNormalization": _instance_normalisation,
    "Softmax": _softmax,
}
