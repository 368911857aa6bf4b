"""What an engine will weigh and how much memory its activations take, from the graph alone.

    estimate = estimate_memory(typed, Profile.fixed(512, 512))
    estimate.activations, estimate.peak_at      # bytes, and the tensor that is being made then

Weights: the constants that nodes with data read, after everything constant is folded. Activations: the largest sum of
tensors that are alive at once, in graph order, at the profile's max. An estimate: a builder fuses nodes, whose tensors
between them then never exist, and adds scratch memory of its own. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from mask2edge.export.constant_folding import QUANTIZATION
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.graph_shapes import Shape, tensor_shapes
from mask2edge.runtime.spec import Profile

# ONNX's number -> (name, bytes of an element)
ELEMENTS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("fp32", 4),
    TensorProto.FLOAT16: ("fp16", 2),
    TensorProto.BFLOAT16: ("bf16", 2),
    TensorProto.INT64: ("int64", 8),
    TensorProto.INT32: ("int32", 4),
    TensorProto.INT8: ("int8", 1),
    TensorProto.UINT8: ("uint8", 1),
    TensorProto.BOOL: ("bool", 1),
}
# The same memory under another shape.
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, each by type: fp32, fp16, …"""

    weights: dict[str, int]
    inputs_and_outputs: dict[str, int]
    activations_by_type: dict[str, int]  # at the peak
    peak_at: str  # the tensor that is being made then
    peak_stage: str  # the named boundary that it leads to
    unknown: int  # tensors whose shape could not be found; they are not counted

    @property
    def activations(self) -> int:
        return sum(self.activations_by_type.values())


def estimate_memory(proto: onnx.ModelProto, profile: Profile) -> MemoryEstimate:
    """Of the graph as it is, types included, at the largest input of the profile."""
    batch, height, width = profile.max
    flow = Dataflow(proto)
    shapes = tensor_shapes(proto, (batch, 3, height, width))
    sizes = {name: _bytes(shape, flow.types.get(name, 0)) for name, shape in shapes.items()}
    constants = _constants(flow, fixed=profile.min == profile.max)
    bindings = [*(value.name for value in proto.graph.input), *flow.outputs]

    weights: Counter[str] = Counter()
    read = {name for node in flow.nodes if node.output[0] not in constants for name in node.input}
    for name in read & constants:
        weights[_type(flow, name)] += sizes.get(name, 0)
    alive, place = _largest_moment(flow, sizes, constants | set(bindings))
    peak: Counter[str] = Counter()
    for name in alive:
        peak[_type(flow, name)] += sizes.get(name, 0)
    borders: Counter[str] = Counter()
    for name in bindings:
        borders[_type(flow, name)] += sizes.get(name, 0)
    return MemoryEstimate(
        dict(weights),
        dict(borders),
        dict(peak),
        place,
        flow.stage_of(flow.producer[place]) if place in flow.producer else "",
        sum(1 for node in flow.nodes for name in node.output if name and name not in shapes),
    )


def _constants(flow: Dataflow, fixed: bool) -> set[str]:
    """What a builder can fold: weights, and what follows from them (and from sizes, where these are fixed)."""
    found = set(flow.initializers)
    for node in flow.nodes:
        if (node.op_type == "Shape" and fixed) or (
            node.op_type not in ("Shape", *QUANTIZATION) and all(name in found for name in node.input if name)
        ):
            found.update(node.output)
    return found


def _largest_moment(flow: Dataflow, sizes: Mapping[str, int], elsewhere: set[str]) -> tuple[set[str], str]:
    """The tensors that are alive together when most memory is in use, and the one that is made then.

    `elsewhere`: those whose memory is not the activations'.
    """
    owner: dict[str, str] = {}  # tensor -> the tensor whose memory it is in
    for node in flow.nodes:
        for name in node.output:
            source = node.input[0] if node.op_type in VIEWS and node.input else name
            owner[name] = name if name in elsewhere else owner.get(source, name)
    last: dict[str, int] = {}
    for index, node in enumerate(flow.nodes):
        for name in (*node.input, *node.output):
            last[owner.get(name, name)] = index
    alive: dict[str, int] = {}
    now = most = 0
    best: tuple[set[str], str] = (set(), "")
    for index, node in enumerate(flow.nodes):
        for name in node.output:
            if name and owner[name] == name and name not in elsewhere:
                alive[name] = sizes.get(name, 0)
                now += alive[name]
        if now > most:
            most, best = now, (set(alive), node.output[0])
        for name in {owner.get(name, name) for name in (*node.input, *node.output)}:
            if last.get(name) == index and name in alive:
                now -= alive.pop(name)
    return best


def _bytes(shape: Shape, element: int) -> int:
    return int(np.prod(shape, dtype=np.int64)) * ELEMENTS.get(element, ("", 4))[1]


def _type(flow: Dataflow, name: str) -> str:
    return ELEMENTS.get(flow.types.get(name, 0), ("other", 4))[0]
