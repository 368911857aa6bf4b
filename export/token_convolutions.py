"""Linear layers over tokens as 1×1 convolutions: the form of which ONNX Runtime makes its fastest integer kernel.

    graph, origins = linears_as_convolutions(proto, keys, {"cat": 3, …})
    origins["cat.nchw"]        # "cat": the tensor that has the same values in another layout

With Q/DQ around it, MatMul + Add is made a float Gemm of dequantised values (MatMulAddFusion comes first). Gemm becomes
QGemm, a convolution QLinearConv, which ONNX Runtime then moves to NHWC, that is to the layout of tokens: the transposes
written here cancel (tests/export/test_quantize.py looks). On one thread of a CPU with VNNI, 5376 tokens, GFLOP/s:

    256 -> 1024    float Gemm 89, QGemm 190, MatMulIntegerToFloat 350, QLinearConv in NHWC 474
    1024 -> 256    float Gemm 108, QGemm 303, MatMulIntegerToFloat 363, QLinearConv in NHWC 557

A layer whose result is split, such as keys of several decoder layers, becomes one convolution a part: each part gets a
scale of its own, and no copy is made. The rewrite is exact but for the order of sums. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mask2edge.export.dataflow import Dataflow

NCHW = ".nchw"  # suffix of a tensor of tokens [N, S, C] in the layout of a map, [N, C, S, 1]
RANKS = (3, 4)  # of tokens: [N, S, C] or [N, H, W, C]


def linears_as_convolutions(
    proto: onnx.ModelProto, keys: Set[str], ranks: Mapping[str, int]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy in which the products `keys` (first outputs of MatMul nodes with a constant right side) are convolutions.

    `ranks`: of the tensors that they read; a product of another rank than RANKS stays as it is. Returns the copy and,
    for each tensor that is new, the one of the old graph with the same values.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    writer = _Writer(Dataflow(proto), {key for key in keys if _is_possible(proto, key, ranks)}, ranks)
    graph = copy.graph
    del graph.node[:]
    graph.node.extend(writer.written())
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    constants = [tensor for tensor in (*graph.initializer, *writer.constants.values()) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return copy, writer.origins


def _is_possible(proto: onnx.ModelProto, key: str, ranks: Mapping[str, int]) -> bool:
    node = next(node for node in proto.graph.node if node.output[0] == key)
    return node.op_type == "MatMul" and ranks.get(node.input[0]) in RANKS


class _Writer:
    def __init__(self, flow: Dataflow, keys: Set[str], ranks: Mapping[str, int]) -> None:
        self.flow = flow
        self.keys = keys
        self.ranks = ranks
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.origins: dict[str, str] = {}
        self.absorbed: set[str] = set()  # first outputs of nodes that a convolution took in

    def written(self) -> list[NodeProto]:
        for node in self.flow.nodes:
            if node.output[0] in self.keys:
                self.linear(node)
            elif node.output[0] not in self.absorbed:
                self.nodes.append(node)
        return self.nodes

    def linear(self, node: NodeProto) -> None:
        """MatMul, and of what follows it alone: Add of a constant [M], Split, Relu."""
        weight = numpy_helper.to_array(self.flow.initializers[node.input[1]])  # [K, M]
        bias, result = None, node.output[0]
        follower = self.only_reader(result)
        if follower is not None and follower.op_type == "Add":
            constant = next((name for name in follower.input if name != result), "")
            if constant in self.flow.initializers and list(self.flow.initializers[constant].dims) == [weight.shape[1]]:
                bias = numpy_helper.to_array(self.flow.initializers[constant])  # [M]
                result = self.absorb(follower)
        follower = self.only_reader(result)
        rank = self.ranks[node.input[0]]
        if follower is not None and follower.op_type == "Split" and self.axis(follower) in (-1, rank - 1):
            starts = np.cumsum([0, *self.lengths(follower, weight.shape[1])])
            self.absorb(follower)
            for name, first, last in zip(follower.output, starts[:-1], starts[1:], strict=True):
                part = None if bias is None else bias[first:last]
                self.convolution(node, name, weight[:, first:last], part, rank)
        else:
            self.convolution(node, result, weight, bias, rank)

    def convolution(self, node: NodeProto, result: str, weight: np.ndarray, bias: np.ndarray | None, rank: int) -> None:
        kernel = np.ascontiguousarray(weight.T)[:, :, None, None]  # [M, K, 1, 1]
        inputs = [self.as_map(node.input[0], rank), self.constant(f"{result}.kernel", kernel)]
        if bias is not None:
            inputs.append(self.constant(f"{result}.bias", np.ascontiguousarray(bias)))
        follower = self.only_reader(result)
        relu = follower is not None and follower.op_type == "Relu"
        target = self.absorb(follower) if follower is not None and relu else result
        made = f"{result}{NCHW}"
        self.add("Conv", inputs, made, kernel_shape=[1, 1])
        if relu:
            made = self.add("Relu", [made], f"{target}{NCHW}")
        self.origins |= {f"{result}{NCHW}": result, made: target}
        if target in self.flow.outputs or any(
            reader.output[0] not in self.keys for reader in self.flow.readers[target]
        ):
            self.as_tokens(made, target, rank)

    def as_map(self, tensor: str, rank: int) -> str:
        """[N, S, C] -> [N, C, S, 1], made once; [N, H, W, C] -> [N, C, H, W]."""
        name = f"{tensor}{NCHW}"
        if name not in self.origins:
            self.origins[name] = tensor
            if rank == 3:
                tensor = self.add("Unsqueeze", [tensor, self.axes()], f"{tensor}.nhwc")
            self.add("Transpose", [tensor], name, perm=[0, 3, 1, 2])
        return name

    def as_tokens(self, tensor: str, target: str, rank: int) -> None:
        if rank == 3:
            moved = self.add("Transpose", [tensor], f"{target}.tokens", perm=[0, 2, 3, 1])
            self.add("Squeeze", [moved, self.axes()], target)
        else:
            self.add("Transpose", [tensor], target, perm=[0, 2, 3, 1])

    def axes(self) -> str:
        return self.constant("tokens.axes", np.array([2], np.int64))

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def only_reader(self, tensor: str) -> NodeProto | None:
        readers = self.flow.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.flow.outputs else None

    def absorb(self, node: NodeProto) -> str:
        self.absorbed.add(node.output[0])
        return node.output[0]

    def lengths(self, split: NodeProto, total: int) -> list[int]:
        if len(split.input) > 1 and split.input[1] in self.flow.initializers:
            return [int(length) for length in numpy_helper.to_array(self.flow.initializers[split.input[1]])]
        return [total // len(split.output)] * len(split.output)

    @staticmethod
    def axis(split: NodeProto) -> int:
        return next((int(attribute.i) for attribute in split.attribute if attribute.name == "axis"), 0)
