"""The shape of every tensor of an exported graph, for one input size, with the custom ops' outputs among them.

    shapes = tensor_shapes(onnx.load("artifacts/street-lite.onnx"), (1, 3, 512, 512))
    shapes["pixel_decoder.fine"]        # (1, 128, 128, 128)

onnx's own inference stops at operators that it does not know, and at sizes that a dynamic graph calculates from its
input. Here nodes are taken one by one in graph order, and whatever follows from sizes and small constants is calculated
on the way. No torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from mask2edge.trt_plugins import OP_DOMAIN

Shape = tuple[int, ...]
LARGEST_VALUE = 4096  # elements of a tensor whose values are calculated: sizes, indices, scales
# Shapes do not depend on them, and opset 18 does not allow bfloat16 for every operator that TensorRT runs in it.
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def tensor_shapes(proto: onnx.ModelProto, pixels: Shape) -> dict[str, Shape]:
    """Tensor -> shape, for an input `pixels` [N, 3, H, W]; tensors whose shape could not be found are left out."""
    walk = _Walk(proto, pixels)
    for node in proto.graph.node:
        walk.take(node)
    return {name: shape for name, kind in walk.types.items() if (shape := _shape(kind)) is not None}


class _Walk:
    def __init__(self, proto: onnx.ModelProto, pixels: Shape) -> None:
        self._opset = {opset.domain: opset.version for opset in proto.opset_import}.get("", 1)
        self.types: dict[str, TypeProto] = {}
        self._values: dict[str, TensorProto] = {}  # small constants, and what follows from them and from sizes
        for tensor in proto.graph.initializer:
            self.types[tensor.name] = _plain(helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
            if np.prod(tensor.dims, dtype=np.int64) <= LARGEST_VALUE and tensor.data_type not in HALVES:
                self._values[tensor.name] = tensor
        for value in proto.graph.input:
            self.types[value.name] = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, pixels)

    def take(self, node: NodeProto) -> None:
        for name, kind in self._output_types(node):
            self.types[name] = _plain(kind)
        self._calculate(node)

    def _output_types(self, node: NodeProto) -> Iterator[tuple[str, TypeProto]]:
        if node.domain == OP_DOMAIN:
            yield from self._custom_output(node)
            return
        given = {name: self.types[name] for name in node.input if name in self.types}
        if len(given) < len({name for name in node.input if name}):
            return  # something before it is unknown
        values = {name: self._values[name] for name in node.input if name in self._values}
        try:
            yield from infer_node_outputs(_schema(node.op_type, self._opset), node, given, values).items()
        except (InferenceError, defs.SchemaError, onnx.checker.ValidationError):
            return

    def _custom_output(self, node: NodeProto) -> Iterator[tuple[str, TypeProto]]:
        """As the plugins do it: [N, Q, C] with the queries of the second input, or of the first, and its channels."""
        kinds = [self.types.get(name) for name in node.input]
        first, second = (_shape(kind) if kind is not None else None for kind in kinds[:2])
        if first is None or second is None or kinds[0] is None:
            return
        shape = first if node.op_type == "MaskedAttention" else (second[0], second[1], first[2])
        yield node.output[0], helper.make_tensor_type_proto(kinds[0].tensor_type.elem_type, shape)

    def _calculate(self, node: NodeProto) -> None:
        kinds = [self.types.get(name) for name in node.output]
        shapes = [_shape(kind) if kind is not None else None for kind in kinds]
        if any(shape is None or np.prod(shape, dtype=np.int64) > LARGEST_VALUE for shape in shapes):
            return
        if node.op_type == "Shape":
            kind = self.types.get(node.input[0])
            shape = _shape(kind) if kind is not None else None
            if shape is None:
                return
            limits = {attribute.name: int(attribute.i) for attribute in node.attribute}
            part = np.array(shape, np.int64)[slice(limits.get("start", 0), limits.get("end"))]
            self._values[node.output[0]] = numpy_helper.from_array(part, node.output[0])
            return
        if not all(name in self._values for name in node.input if name) or node.domain == OP_DOMAIN:
            return
        if any(attribute.name == "to" and attribute.i in HALVES for attribute in node.attribute):
            return
        arrays = {name: numpy_helper.to_array(self._values[name]) for name in node.input if name}
        evaluator = ReferenceEvaluator(node, opsets={"": self._opset})
        for name, array in zip(node.output, evaluator.run(None, arrays), strict=True):
            self._values[name] = numpy_helper.from_array(np.asarray(array), name)


@functools.cache
def _schema(op: str, opset: int) -> defs.OpSchema:
    return defs.get_schema(op, opset)


def _plain(kind: TypeProto) -> TypeProto:
    """float32 in the place of half precision."""
    if kind.tensor_type.elem_type in HALVES:
        kind.tensor_type.elem_type = TensorProto.FLOAT
    return kind


def _shape(kind: TypeProto) -> Shape | None:
    """None unless every length is known."""
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or not all(length.HasField("dim_value") for length in tensor.shape.dim):
        return None
    return tuple(length.dim_value for length in tensor.shape.dim)
