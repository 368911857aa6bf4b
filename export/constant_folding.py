"""Constants as TensorRT should see them: whatever follows from weights alone is calculated here, once, in float32.

    folded = fold_constants(onnx.load("artifacts/street-lite.onnx"))

An exported file keeps the small factors of its position tables and leaves their product to the backend that loads it
(export/inference_graph.py). ONNX Runtime multiplies them then. TensorRT-RTX was seen to put the factors into its plan
instead, which leaves a matrix product of every position in every encoder layer to each inference. No torch.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")  # of weights too: folded, they would be floats again

# Operators with as many values in their result as in their input.
REARRANGING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def fold_constants(proto: onnx.ModelProto, growing: bool = True) -> onnx.ModelProto:
    """A copy in which every node reads the pixels, or something that depends on the input's size.

    Without `growing`, what could make the file larger, such as a product of small factors, stays as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    known = {tensor.name for tensor in graph.initializer} | {""}
    constant, kept = [], []
    for node in graph.node:
        possible = node.op_type not in QUANTIZATION and (growing or node.op_type in REARRANGING)
        if possible and known.issuperset(node.input):
            constant.append(node)
            known.update(node.output)
        else:
            kept.append(node)
    if not constant:
        return copy
    made = {name for node in constant for name in node.output}
    read = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    wanted = sorted(made & read)
    used = {name for node in constant for name in node.input}
    part = helper.make_graph(
        constant,
        "constants",
        [],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in wanted],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    values = ReferenceEvaluator(helper.make_model(part, opset_imports=copy.opset_import)).run(wanted, {})
    remaining = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(remaining)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in zip(wanted, values, strict=True)
    )
    graph.node.extend(kept)
    return copy
