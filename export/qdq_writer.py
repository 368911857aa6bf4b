"""Writes explicit quantisation into a float32 graph: QuantizeLinear and DequantizeLinear around weighted nodes.

    plan = QdqPlan(graph, keys, ONNXRUNTIME)
    quantized = plan.written({name: (-1.5, 6.0) for name in plan.tensors})

Weights are int8, symmetric, one scale per output channel, in both schemes. What differs:

- ONNXRUNTIME: activations uint8 with a zero point, and results quantised too, because only DQ -> Conv -> Q becomes an
  integer kernel; biases int32. Sums, pooling and activations between such nodes are then integer as well.
- TENSORRT: activations int8 with zero point 0, quantised where a weighted node reads them and nowhere else, biases in
  float, as TensorRT's documentation on explicit quantisation asks for. Scales are numbers that float16 can hold.

Own code, because a tensor is quantised per reader here: onnxruntime.quantization's QDQQuantizer gives the quantised
values to every reader of a tensor, the encoder's residual stream among them. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mask2edge.export.dataflow import Dataflow

Range = tuple[float, float]  # lowest and highest value
ACTIVATIONS = ("Relu", "Clip")  # ONNX Runtime drops one that quantising to its result's range does as well
SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class Scheme:
    """`results`: what quantised nodes yield is quantised too; `half_scales`: scales are rounded to float16."""

    name: str
    signed: bool
    results: bool
    integer_bias: bool
    half_scales: bool


ONNXRUNTIME = Scheme("onnxruntime", signed=False, results=True, integer_bias=True, half_scales=False)
TENSORRT = Scheme("tensorrt", signed=True, results=False, integer_bias=False, half_scales=True)


class QdqPlan:
    """What will be quantised. `keys`: first outputs of convolutions and of matrix products with constant weights."""

    def __init__(self, proto: onnx.ModelProto, keys: Set[str], scheme: Scheme) -> None:
        self.proto = proto
        self.scheme = scheme
        self.flow = Dataflow(proto)
        self.keys = keys
        self.shared: dict[str, str] = {}  # result of a pooling -> the tensor whose scale it has
        self.results = self._find_results() if scheme.results else {}
        self.integer = {*keys, *self.results.values()}  # first outputs of all nodes that integer kernels take
        read = [node.input[0] for node in self.flow.nodes if node.output[0] in keys]
        self.tensors = list(dict.fromkeys([*read, *self.results]))

    def written(self, ranges: Mapping[str, Range]) -> onnx.ModelProto:
        """A copy with Q/DQ. `ranges`: of every tensor of `tensors`. Raises KeyError for one that is missing."""
        return _Writer(self, ranges).written()

    def _find_results(self) -> dict[str, str]:
        """Tensor to quantise behind its producer -> first output of the node it belongs to."""
        found: dict[str, str] = {}
        for node in self.flow.nodes:
            key = node.output[0]
            if key in self.keys or (node.op_type == "Add" and all(name in found for name in node.input)):
                found[self._behind_activation(key)] = key
            elif node.op_type == "MaxPool" and node.input[0] in found:
                self.shared[key] = node.input[0]
                found[key] = key
        return found

    def _behind_activation(self, tensor: str) -> str:
        readers = self.flow.readers[tensor]
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and tensor not in self.flow.outputs:
            return readers[0].output[0]
        return tensor


class _Writer:
    def __init__(self, plan: QdqPlan, ranges: Mapping[str, Range]) -> None:
        self.plan = plan
        self.flow = plan.flow
        self.ranges = ranges
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.scales: dict[str, float] = {}  # of quantised activations
        self.ready: set[str] = set()  # activations that have their pair

    def written(self) -> onnx.ModelProto:
        for node in self.flow.nodes:
            self.write(node)
        copy = onnx.ModelProto()
        copy.CopyFrom(self.plan.proto)
        graph = copy.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        constants = [tensor for tensor in (*graph.initializer, *self.constants.values()) if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        return copy

    def write(self, node: NodeProto) -> None:
        written = NodeProto()
        written.CopyFrom(node)
        weighted = node.output[0] in self.plan.keys
        for index, name in enumerate(node.input):
            if name in self.plan.results or (weighted and index == 0):
                written.input[index] = self.activation(name)
        if weighted:
            scales = self.weight(written, node.input[0])
            if len(node.input) > 2 and self.plan.scheme.integer_bias:
                written.input[2] = self.bias(node.input[2], node.output[0], scales * self.scales[node.input[0]])
        self.nodes.append(written)

    def activation(self, name: str) -> str:
        """The dequantised tensor, whose pair is written before its first reader."""
        if name not in self.ready:
            self.ready.add(name)
            scale, zero = _parameters(self.ranges[self.plan.shared.get(name, name)], self.plan.scheme)
            self.scales[name] = float(scale)
            parameters = [self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero)]
            self.pair("QuantizeLinear", [name, *parameters], f"{name}.quantized")
            self.pair("DequantizeLinear", [f"{name}.quantized", *parameters], f"{name}.dequantized")
        return f"{name}.dequantized"

    def weight(self, node: NodeProto, source: str) -> np.ndarray:
        """Quantises the weights of `node`, which reads `source`, one scale a channel; returns the scales."""
        name = node.input[1]
        values = numpy_helper.to_array(self.flow.initializers[name]).astype(np.float64)
        axis = 0 if node.op_type == "Conv" else 1
        largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))  # [M]
        scales = largest / 127
        if len(node.input) > 2 and self.plan.scheme.integer_bias:  # a bias is a multiple of both scales, in 31 bits
            bias = np.abs(numpy_helper.to_array(self.flow.initializers[node.input[2]]).astype(np.float64))  # [M]
            scales = np.maximum(scales, bias / self.scales[source] / 2**30)
        scales = _stored(scales, self.plan.scheme)
        by_channel = scales.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        rounded = np.clip(np.rint(values / by_channel), -127, 127).astype(np.int8)
        key = node.output[0]
        inputs = [
            self.constant(f"{key}.weight", rounded),
            self.constant(f"{key}.weight.scale", scales),
            self.constant(f"{key}.weight.zero", np.zeros(len(scales), np.int8)),
        ]
        node.input[1] = self.pair("DequantizeLinear", inputs, f"{key}.weight.dequantized", axis=axis)
        return scales

    def bias(self, name: str, key: str, scales: np.ndarray) -> str:
        values = numpy_helper.to_array(self.flow.initializers[name]).astype(np.float64)
        inputs = [
            self.constant(f"{key}.bias", np.rint(values / scales).astype(np.int32)),
            self.constant(f"{key}.bias.scale", scales.astype(np.float32)),
        ]
        return self.pair("DequantizeLinear", inputs, f"{key}.bias.dequantized", axis=0)

    def pair(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name


def _parameters(limits: Range, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32, above 0) and zero point of an activation; 0.0 is always one of the quantised numbers."""
    low, high = min(float(limits[0]), 0.0), max(float(limits[1]), 0.0)
    if scheme.signed:
        return _stored(np.float64(max(-low, high) / 127), scheme), np.int8(0)
    scale = _stored(np.float64((high - low) / 255), scheme)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))


def _stored(scales: np.ndarray, scheme: Scheme) -> np.ndarray:
    """As float32, above 0, and where the scheme asks for it a number that float16 holds."""
    scales = np.where(scales > 0, scales, 1.0)
    if not scheme.half_scales:
        return np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
    halves = np.maximum(scales, SMALLEST_HALF).astype(np.float16)
    below = halves.astype(np.float64) < scales  # rounded down: the largest value would be cut off
    return np.where(below, np.nextafter(halves, np.float16(np.inf)), halves).astype(np.float32)
