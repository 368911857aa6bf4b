"""Which nodes stay fp32 in a typed graph, and why: a table that is measured, docs/precision.md.

    for island in ISLANDS:
        print(island.name, len(island.members(Dataflow(proto))), island.reason)

An island earns its place by the error without it, on the shipped model's weights (benchmarks/precision_islands.py).
LEFT_IN_HALF is what was measured as well and costs little in half; overrides know its names like those of islands.

Convolutions and matrix products are in half but for those of logits. The factors of mask logits are halves that a Cast
widens: TensorRT is documented to make that one product of halves that adds in fp32; where it does not, TF32
(build_engine.py --tf32) holds halves exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from onnx import NodeProto

from mask2edge.export.dataflow import Dataflow
from mask2edge.export.stage_comparison import PROPOSALS, is_mask

NORMS = ("LayerNormalization", "InstanceNormalization")
CHOICE = ("Pad", "Reshape", "ReduceMax", "Where", "Sub", "Equal", "MaxPool")
WINDOW = (
    "Reshape", "Add", "Unsqueeze", "Div", "Slice", "Clip", "Mul", "Neg", "Sub", "Gather", "Exp", "Concat", "Cast",
    "Floor",
)  # fmt: skip


@dataclass(frozen=True)
class Island:
    """`members`: the nodes, each by its first output."""

    name: str
    reason: str
    members: Callable[[Dataflow], Set[str]]


def normalisation(flow: Dataflow) -> set[str]:
    """Layer norms, and group norms as the exporter writes them: reshaped instance norm, times scale, plus bias."""
    found = _keys(node for node in flow.nodes if node.op_type in NORMS)
    for node in flow.nodes:
        reader: NodeProto | None = node
        for kind in ("Reshape", "Mul", "Add") if node.op_type == "InstanceNormalization" else ():
            reader = _only_reader(flow, reader, kind)
            found |= _keys([reader] if reader else [])
    return found


def residual(flow: Dataflow) -> set[str]:
    """The additions that a layer norm reads."""
    sums = [flow.producer.get(node.input[0]) for node in flow.nodes if node.op_type == "LayerNormalization"]
    return _keys(node for node in sums if node is not None and node.op_type == "Add")


def mask_logits(flow: Dataflow) -> set[str]:
    """The product of mask embeddings and features, and the addition of its bias, for every layer and the result."""
    return set().union(*(_product(flow, name) for name in [*filter(is_mask, flow.producer), "mask_logits"]))


def windows(flow: Dataflow) -> set[str]:
    """What guided queries add to their masks, from the places where they began and what they say of them."""
    found = set()
    for name in [*filter(is_mask, flow.producer), "mask_logits"]:
        total = _last(flow, name)
        before = flow.producer.get(total.input[0]) if total is not None else None
        if total is not None and before is not None and before.op_type == "Add":  # the bias
            found |= _keys(flow.makers(total.input[1], WINDOW))
    return found


def proposals(flow: Dataflow) -> set[str]:
    """The scores that guided queries are chosen by, and the choice."""
    found = [flow.producer[PROPOSALS]] if PROPOSALS in flow.producer else []
    for node in flow.nodes:
        if node.op_type == "TopK":
            found += [node, *flow.makers(node.input[0], CHOICE)]
    return _keys(found)


def class_logits(flow: Dataflow) -> set[str]:
    return _product(flow, "class_logits")


def sampling_grid(flow: Dataflow) -> set[str]:
    """Of the standard operators: from raw offsets to coordinates, and the sampling. Our operator does it inside."""
    found = set()
    for node in flow.nodes:
        if node.op_type == "GridSample":
            found |= _keys([node, *flow.makers(node.input[1], ("Reshape", "Add", "Mul", "Gather"))])
    return found


def softmax(flow: Dataflow) -> set[str]:
    """With the scores that it reads, the products of queries and keys."""
    found = [node for node in flow.nodes if node.op_type == "Softmax"]
    scores = [flow.producer.get(node.input[0]) for node in found]
    return _keys([*found, *(node for node in scores if node is not None and node.op_type == "MatMul")])


def sampling_offsets(flow: Dataflow) -> set[str]:
    """Raw offsets and logits of our sampling operator: the sum of the position's part and the source's."""
    found = set()
    for node in flow.nodes:
        if node.op_type == "MultiscaleDeformableAttention":
            found |= _keys(flow.makers(node.input[1], ("Add",)) + flow.makers(node.input[2], ("Add",)))
    return found


def keys_and_values(flow: Dataflow) -> set[str]:
    """Of our masked attention."""
    found = set()
    for node in flow.nodes:
        if node.op_type == "MaskedAttention":
            for name in node.input[1:3]:
                found |= _keys(flow.makers(name, ("Split", "Add", "MatMul")))
    return found


def mask_features(flow: Dataflow) -> set[str]:
    """The map that masks are products with: its last ReLU, and the resizing to each level."""
    fine = "pixel_decoder.fine"
    return _keys([*flow.makers(fine, ("Relu",)), *(node for node in flow.readers[fine] if node.op_type == "Resize")])


ISLANDS = (
    Island(
        "normalisation",
        "a strongly typed norm calculates in its input's type: sums of squares overflow fp16 and are coarse in both",
        normalisation,
    ),
    Island("residual stream", "every layer adds to it, and rounding at each addition piles up", residual),
    Island("mask logits", "their sign decides what the next layer attends to, and they are a result", mask_logits),
    Island("windows", "squares of places in the image, which halves count in whole pixels", windows),
    Island("proposals", "their order decides which pixels become queries", proposals),
    Island("class logits", "they are a result, and small", class_logits),
    Island(
        "sampling grid",
        "coordinates count from -1 to 1 across the image, where a half is a share of a pixel",
        sampling_grid,
    ),
)
LEFT_IN_HALF = (
    Island("softmax", "each weight is rounded once, and their sum is at most the number of keys", softmax),
    Island(
        "sampling offsets",
        "raw, in pixels of a level: coordinates are made of them in fp32 inside the operator",
        sampling_offsets,
    ),
    Island("keys and values", "rounded once before the products that read halves anyway", keys_and_values),
    Island("mask features", "rounded once before the products that read halves anyway", mask_features),
)


def _product(flow: Dataflow, tensor: str) -> set[str]:
    """The nodes that end in `tensor`: a MatMul, one Add or two, and reshaping after them."""
    found = []
    for kind in ("Reshape", "Add", "Add", "MatMul"):
        node = flow.producer.get(tensor)
        if node is not None and node.op_type == kind:
            found.append(node)
            tensor = next((name for name in node.input if name in flow.producer), "")
    return _keys(found)


def _last(flow: Dataflow, tensor: str) -> NodeProto | None:
    """The Add that makes `tensor`, before reshaping."""
    node = flow.producer.get(tensor)
    if node is not None and node.op_type == "Reshape":
        node = flow.producer.get(node.input[0])
    return node if node is not None and node.op_type == "Add" else None


def _only_reader(flow: Dataflow, node: NodeProto | None, kind: str) -> NodeProto | None:
    readers = flow.readers[node.output[0]] if node is not None else []
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _keys(nodes: Iterable[NodeProto]) -> set[str]:
    return {node.output[0] for node in nodes}
