"""Which part of the network each weighted node belongs to, and which parts are int8: a table that is measured.

    groups = groups_of(Dataflow(proto))          # first output of a convolution or linear layer -> name of its group
    [group.name for group in GROUPS if group.quantized]

Parts are found by what the graph calculates (which stage a node is for, what reads it), not by names of weights, so
the same table holds for every backbone, for custom and standard ops, and for fixed and dynamic sizes. What a group
costs and gains: benchmarks/int8_sensitivity.py, docs/int8.md. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto

from mask2edge.export.dataflow import Dataflow
from mask2edge.runtime.session import INPUT
from mask2edge.trt_plugins import OP_DOMAIN

LEVEL, FINE = "pixel_decoder.level", "pixel_decoder.fine"
# What may stand between a linear layer and the operator that its result is for.
THROUGH = ("Add", "Concat", "Gather", "Mul", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Group:
    """`quantized`: int8 by default; `reason`: why, or why not."""

    name: str
    quantized: bool
    reason: str


GROUPS = (
    Group("stem", True, "a large share of a backbone's first stage, on pixels that are 8 bits anyway"),
    Group("backbone.res2", True, "most of the arithmetic is in convolutions"),
    Group("backbone.res3", True, "most of the arithmetic is in convolutions"),
    Group("backbone.res4", True, "most of the arithmetic is in convolutions"),
    Group("backbone.res5", True, "most of the arithmetic is in convolutions"),
    Group("input projections", True, "convolutions that a normalisation follows"),
    Group("encoder values", True, "linear layers over all tokens"),
    Group("encoder offsets", True, "linear layers over all tokens"),
    Group("encoder weights", True, "linear layers over all tokens"),
    Group("encoder outputs", True, "linear layers over all tokens"),
    Group("encoder FFN", True, "linear layers over all tokens, most of the encoder's arithmetic"),
    Group("FPN lateral", True, "a convolution over the largest map"),
    Group("FPN output", True, "the largest convolution of the network"),
    Group("keys and values", True, "linear layers over all tokens"),
    Group("decoder queries", False, "a hundred rows: nothing to gain"),
    Group("mask head", False, "its errors are multiplied with the whole map, and it is a hundred rows"),
    Group("class head", False, "a result, and small"),
)
QUANTIZED = frozenset(group.name for group in GROUPS if group.quantized)
# (operator, input) that a linear layer of the encoder is for -> its group.
_ENCODER = {
    ("MultiscaleDeformableAttention", 0): "encoder values",
    ("MultiscaleDeformableAttention", 1): "encoder offsets",
    ("MultiscaleDeformableAttention", 2): "encoder weights",
    ("GridSample", 0): "encoder values",
    ("GridSample", 1): "encoder offsets",
    ("Softmax", 0): "encoder weights",
    ("Relu", 0): "encoder FFN",
}


def groups_of(flow: Dataflow) -> dict[str, str]:
    """First output of each weighted node that sees the pixels -> the name of its group, in graph order."""
    return {node.output[0]: _group(flow, node) for node in flow.nodes if is_weighted(flow, node)}


def is_weighted(flow: Dataflow, node: NodeProto) -> bool:
    """A convolution, or a matrix product whose right side is a constant [K, M] and whose left side is not."""
    if node.op_type not in ("Conv", "MatMul") or not flow.sees_pixels(node):
        return False
    weight = flow.initializers.get(node.input[1])
    return weight is not None and (node.op_type == "Conv" or len(weight.dims) == 2)


def _group(flow: Dataflow, node: NodeProto) -> str:
    stage = flow.stage_of(node)
    if stage.startswith("backbone."):
        return "stem" if node.input[0] == INPUT else stage
    if stage == FINE:
        return "FPN lateral" if node.input[0] == "backbone.res2" else "FPN output"
    if stage.startswith(LEVEL):
        return "input projections" if node.op_type == "Conv" else _encoder_group(flow, node)
    if _reads_tokens(flow, node):
        return "keys and values"
    if stage == "class_logits":
        return "class head"
    return "mask head" if stage.endswith("mask_logits") else "decoder queries"


def _encoder_group(flow: Dataflow, node: NodeProto) -> str:
    before = flow.producer.get(node.input[0])
    if before is not None and before.op_type == "Relu":
        return "encoder FFN"
    for reader, index in _ends(flow, node.output[0]):
        if (reader.op_type, index) in _ENCODER:
            return _ENCODER[reader.op_type, index]
        if reader.domain == OP_DOMAIN:  # an operator of ours that takes several of them packed
            return "encoder values"
    return "encoder outputs"


def _ends(flow: Dataflow, tensor: str) -> Iterable[tuple[NodeProto, int]]:
    """The first readers of `tensor`, or of what is made of it, that are no operators of THROUGH, with their input."""
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop(0)
        for reader in flow.readers[name]:
            if reader.op_type not in THROUGH:
                yield reader, list(reader.input).index(name)
                continue
            fresh = [output for output in reader.output if output not in seen]
            seen.update(fresh)
            waiting.extend(fresh)


def _reads_tokens(flow: Dataflow, node: NodeProto) -> bool:
    """Whether it reads an encoder's level, or one with its position added."""
    producer = flow.producer.get(node.input[0])
    names = list(producer.input) if producer is not None and producer.op_type == "Add" else []
    return any(name.startswith(LEVEL) for name in (node.input[0], *names))
