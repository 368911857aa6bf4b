"""How many multiply-adds a network's matrix products take, and how fast this machine does them: its time's floor.

    2 * multiply_adds(onnx.load("artifacts/peers/stock-r50-512x512/model.onnx"), (1, 3, 512, 512)) / 1e9    # GFLOP
    gemm = Gemm(threads=2); gemm.run(); gemm.flop                    # a matrix product to time beside the network

Counted are convolutions, Gemm, MatMul, Einsum, and attention's two products: what sgemm computes. Sampling, softmax,
normalisation and element-wise work are not: the floor is what would remain if all of them cost nothing.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from mask2edge.export.graph_shapes import Shape, tensor_shapes
from mask2edge.trt_plugins import OP_DOMAIN

# Large enough that packing and the pool's start do not show, about what the encoder's FFN is at 512x512.
GEMM_SHAPE = (5376, 1024, 1024)  # rows, inner, columns


def multiply_adds(model: onnx.ModelProto, pixels: Shape) -> int:
    """For an input `pixels` [N, 3, H, W]. Raises ValueError where a product's shape cannot be found."""
    shapes = tensor_shapes(model, pixels)
    total = 0
    for node in model.graph.node:
        if node.domain in ("", OP_DOMAIN) and node.op_type in _COUNTS:
            missing = [name for name in (*node.input, *node.output) if name and name not in shapes]
            if missing:
                raise ValueError(f"{node.op_type} {node.name}: the shape of {missing[0]} is unknown")
            total += _COUNTS[node.op_type](node, [shapes.get(name, ()) for name in node.input], shapes[node.output[0]])
    return total


def _convolution(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * prod(inputs[1][1:])  # each output value: one filter, channels / groups x height x width


def _matmul(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * inputs[0][-1]


def _gemm(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(output) * inputs[0][0 if transposed else 1]


def _einsum(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    lengths: dict[str, int] = {}
    for letters, shape in zip(equation.split("->")[0].split(","), inputs, strict=True):
        lengths.update(zip(letters.replace(" ", ""), shape, strict=True))
    return prod(lengths.values())


def _masked_attention(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    return 2 * prod(output) * inputs[1][1]  # query [N, Q, C] with each of S keys, and weights with their values


_COUNTS = {
    "Conv": _convolution,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "MaskedAttention": _masked_attention,
}


class Gemm:
    """One large float32 matrix product in ONNX Runtime, the fastest of this machine's that needs no other package."""

    def __init__(self, threads: int | None, shape: tuple[int, int, int] = GEMM_SHAPE) -> None:
        import onnxruntime

        rows, inner, columns = shape
        self.flop = 2 * rows * inner * columns
        random = np.random.default_rng(0)
        weight = random.standard_normal((inner, columns), np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["c"])],
            "gemm",
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, [rows, inner])],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT, [rows, columns])],
            [onnx.numpy_helper.from_array(weight, "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._binding = session.io_binding()
        values = random.standard_normal((rows, inner), np.float32), np.zeros((rows, columns), np.float32)
        self._factor, self._product = map(onnxruntime.OrtValue.ortvalue_from_numpy, values)
        self._binding.bind_ortvalue_input("a", self._factor)
        self._binding.bind_ortvalue_output("c", self._product)
        self._session = session

    def run(self) -> None:
        """Once; the caller takes the time."""
        self._session.run_with_iobinding(self._binding)
