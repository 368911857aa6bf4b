"""A network of a dozen nodes with everything that builders look at: a plugin node, dynamic sizes, our description.

proto = toy_graph("custom", FIXED)      # "standard": nearly the same by ONNX's own operators, without the masks
"""

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_export import CLASSES, QUERIES, tiny_spec

from mask2edge.export.onnx_metadata import Description
from mask2edge.runtime.spec import Profile

CHANNELS, HEADS = 16, 4


def toy_graph(ops: str, profile: Profile) -> onnx.ModelProto:
    """pixels [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
    proto = onnx.ModelProto()
    proto.CopyFrom(_toy_graph(ops, profile))
    return proto


@functools.cache
def _toy_graph(ops: str, profile: Profile) -> onnx.ModelProto:
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(0.2 * random.standard_normal(shape).astype(np.float32), name)

    def integers(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    initializers = [
        weight("kernel", CHANNELS, 3, 4, 4), weight("learned", 1, QUERIES, CHANNELS), weight("scale", CHANNELS),
        weight("shift", CHANNELS), weight("classes", CHANNELS, CLASSES + 1), integers("flat", 0, CHANNELS, -1),
        integers("tokens_axis", 1), integers("zero", 0), integers("one", 1), integers("two", 2), integers("four", 4),
        integers("queries", QUERIES), integers("heads", 0, 0, HEADS, CHANNELS // HEADS),
        integers("joined", 0, 0, CHANNELS),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["pixels", "kernel"], ["convolved"], strides=[4, 4], name="conv"),
        node("Relu", ["convolved"], ["backbone.res2"], name="relu"),  # [N, C, h, w]
        node("Reshape", ["backbone.res2", "flat"], ["features"]),  # [N, C, S]
        node("Transpose", ["features"], ["tokens"], perm=[0, 2, 1]),
        node("ReduceMean", ["tokens", "tokens_axis"], ["mean"], keepdims=1),
        node("Add", ["learned", "mean"], ["added"]),  # [N, Q, C]
        node("LayerNormalization", ["added", "scale", "shift"], ["query"], axis=-1, name="norm"),
        node("MatMul", ["query", "features"], ["decoder.0.mask_logits"], name="masks"),  # [N, Q, S]
        *(_custom_attention() if ops == "custom" else _standard_attention()),
        node("MatMul", ["attended", "classes"], ["class_logits"], name="class_head"),
        node("MatMul", ["attended", "features"], ["full"], name="mask_head"),
        node("Shape", ["backbone.res2"], ["sizes"]),
        node("Slice", ["sizes", "zero", "one"], ["batch"]),
        node("Slice", ["sizes", "two", "four"], ["map_size"]),
        node("Concat", ["batch", "queries", "map_size"], ["mask_shape"], axis=0),
        node("Reshape", ["full", "mask_shape"], ["mask_logits"], name="mask_map"),
    ]
    names = [
        name if low != high else low
        for name, low, high in zip(("batch", "height", "width"), profile.min, profile.max, strict=True)
    ]
    quarters = [f"{name}/4" if isinstance(name, str) else name // 4 for name in names[1:]]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "toy",
        [value("pixels", names[0], 3, *names[1:])],
        [value("class_logits", names[0], QUERIES, CLASSES + 1), value("mask_logits", names[0], QUERIES, *quarters)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("mask2edge", 1)] if ops == "custom" else [])]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(proto, Description(tiny_spec(), profile, ops, "fp32", "0" * 64).to_metadata())
    return proto


def _custom_attention() -> list[onnx.NodeProto]:
    return [
        helper.make_node(
            "MaskedAttention", ["query", "tokens", "tokens", "decoder.0.mask_logits"], ["attended"],
            domain="mask2edge", num_heads=HEADS, name="node_masked_attention",
        )
    ]  # fmt: skip


def _standard_attention() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        *(node("Reshape", [name, "heads"], [f"{name}.split"]) for name in ("query", "tokens")),
        node("Transpose", ["query.split"], ["query.heads"], perm=[0, 2, 1, 3]),  # [N, M, Q, D]
        node("Transpose", ["tokens.split"], ["keys"], perm=[0, 2, 3, 1]),  # [N, M, D, S]
        node("Transpose", ["tokens.split"], ["values"], perm=[0, 2, 1, 3]),
        node("MatMul", ["query.heads", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "values"], ["sums"]),
        node("Transpose", ["sums"], ["sums.tokens"], perm=[0, 2, 1, 3]),
        node("Reshape", ["sums.tokens", "joined"], ["attended"]),  # [N, Q, C]
    ]
