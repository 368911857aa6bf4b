"""Typed graphs: fp16 or bf16 written into the ONNX file itself, with fp32 where it matters.

    typed = typed_graph(onnx.load("artifacts/street-lite.onnx"), "fp16", {"backbone.res5": "fp32"})
    print("\\n".join(precision_plan(proto, "fp16").lines()))

TensorRT builds such a graph as a strongly typed network: every tensor has the type that the graph gives it, on every
version, and nothing is left to the builder's choice. Each node calculates in one type; where a tensor has another, a
Cast stands between; weights are stored in the type that they are used in. Network inputs and outputs stay float32.
Which nodes stay fp32 is the table of precision_islands.py, what they are worth docs/precision.md. No torch.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from mask2edge.export.constant_folding import fold_constants
from mask2edge.export.dataflow import MOVES, Dataflow
from mask2edge.export.emulation import emulated
from mask2edge.export.half_storage import metadata_of, store_full
from mask2edge.export.half_types import LARGEST, TYPES
from mask2edge.export.precision_islands import ISLANDS, LEFT_IN_HALF
from mask2edge.export.typed_writer import ALWAYS_FP32, AS_IT_IS, write_types
from mask2edge.runtime.command_line import InputError

__all__ = ["Choice", "PlanRow", "PrecisionPlan", "emulated", "precision_plan", "typed_graph"]

ARITHMETIC = "mask2edge.arithmetic"  # metadata: "typed" tells a typed graph from one that stores its weights in half
PRECISION = "mask2edge.precision"
INT8_FOR_TENSORRT = "int8 for tensorrt"  # quantize.py wrote Q/DQ into it, and its other types are still to be chosen
SIZES_ALONE = "sizes"
OUT_OF_RANGE = "range"
OVERRIDE = "override"
REASONS = {
    OVERRIDE: "as asked",
    SIZES_ALONE: "follows from the input's size alone: positions and shapes",
    OUT_OF_RANGE: "has a constant that the type cannot hold",
}


@dataclass(frozen=True)
class Choice:
    """In which type a node calculates, and why: an island, an override, a general rule, or "" for the precision."""

    precision: str
    reason: str = ""


@dataclass(frozen=True)
class PlanRow:
    """`nodes`: precision -> how many nodes of the island, or of the stage outside of islands, calculate in it."""

    name: str
    reason: str
    nodes: dict[str, int]


@dataclass(frozen=True)
class PrecisionPlan:
    precision: str
    rows: tuple[PlanRow, ...]

    def lines(self) -> list[str]:
        """For people: one line a row."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.nodes)
        width = max((len(row.name) for row in self.rows), default=0)
        return [
            f"precision {self.precision}: {_counted(total)}",
            *(f"  {row.name:<{width}}  {_counted(row.nodes):<22}  {row.reason}".rstrip() for row in self.rows),
        ]


def typed_graph(proto: onnx.ModelProto, precision: str, overrides: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """A strongly typed copy; its metadata says the precision, and `mask2edge.arithmetic` says typed.

    `overrides`: name of a node, stage or group of precision_islands.py (`*` and `?` match as in file names) -> fp32,
    fp16 or bf16; later entries win. fp32 without overrides has its constants folded, and no types to write. Raises
    InputError for a name or precision that is unknown, and for a graph that is typed already.
    """
    full = fold_constants(_full_precision(proto, precision))
    if precision == "fp32" and not overrides:
        return full
    flow = Dataflow(full)
    write_types(full, flow, {key: choice.precision for key, choice in _choices(flow, precision, overrides).items()})
    entries = metadata_of(full)
    if ARITHMETIC not in entries:  # else it is int8, and `precision` that of the rest
        entries[PRECISION] = precision
    onnx.helper.set_model_props(full, entries | {ARITHMETIC: "typed"})
    return full


def precision_plan(proto: onnx.ModelProto, precision: str, overrides: Mapping[str, str] | None = None) -> PrecisionPlan:
    """What `typed_graph` would do. Raises as it does."""
    flow = Dataflow(fold_constants(_full_precision(proto, precision)))
    choices = _choices(flow, precision, overrides)
    rows: dict[str, Counter[str]] = {}
    for node in flow.nodes:
        choice = choices.get(node.output[0])
        if choice is not None:
            name = choice.reason or _part(flow.stage_of(node))
            rows.setdefault(name, Counter())[choice.precision] += 1
    reasons = REASONS | {island.name: island.reason for island in ISLANDS}
    return PrecisionPlan(
        precision, tuple(PlanRow(name, reasons.get(name, ""), dict(count)) for name, count in rows.items())
    )


def _choices(flow: Dataflow, precision: str, overrides: Mapping[str, str] | None) -> dict[str, Choice]:
    """First output of each node that reads or makes floats -> its choice."""
    islands: dict[str, str] = {}
    for island in ISLANDS if precision != "fp32" else ():
        for key in island.members(flow):
            islands.setdefault(key, island.name)
    overridden = _overridden(flow, overrides or {})
    choices: dict[str, Choice] = {}
    for node in flow.nodes:
        key = node.output[0]
        if not any(map(flow.is_float, node.output)) and not any(_typed_reads(flow, node)):
            continue
        wished = overridden.get(key, precision)
        if not flow.sees_pixels(node) and node.op_type != "DequantizeLinear":  # which a weight has too
            choices[key] = Choice("fp32", SIZES_ALONE)
        elif key in overridden:
            choices[key] = Choice(wished, islands.get(key, OVERRIDE))
        elif key in islands:
            choices[key] = Choice("fp32", islands[key])
        elif node.op_type in MOVES or node.op_type == "QuantizeLinear":  # int8 is made of the values as they are
            choices[key] = Choice(_moved_type(flow, node, choices))
        else:
            choices[key] = Choice(precision)
        if not _in_range(flow, node, choices[key].precision):
            choices[key] = Choice("fp32", OUT_OF_RANGE)
    _round_before_moving(flow, precision, choices, overridden)
    return choices


def _moved_type(flow: Dataflow, node: NodeProto, choices: Mapping[str, Choice]) -> str:
    """The type that the values have already; fp32 where one of several has it."""
    found = set()
    for name in node.input:
        producer = flow.producer.get(name)
        if flow.is_float(name) and name not in flow.initializers:
            found.add("fp32" if producer is None else choices[producer.output[0]].precision)
    return found.pop() if len(found) == 1 else "fp32"


def _round_before_moving(
    flow: Dataflow, precision: str, choices: dict[str, Choice], overridden: Mapping[str, str]
) -> None:
    """A float32 tensor that is moved for readers in half alone is rounded first: the same values, half the bytes."""
    for node in reversed(flow.nodes):
        key = node.output[0]
        movable = node.op_type in MOVES and key not in overridden and choices.get(key) == Choice("fp32")
        if movable and all(_read_in_half(flow, name, choices) for name in node.output):
            choices[key] = Choice(precision)


def _read_in_half(flow: Dataflow, tensor: str, choices: Mapping[str, Choice]) -> bool:
    """Whether nobody reads it as float32."""
    return tensor not in flow.outputs and not any(
        name == tensor and (choices[reader.output[0]].precision == "fp32" or (reader.op_type, index) in ALWAYS_FP32)
        for reader in flow.readers[tensor]
        for index, name in _typed_reads(flow, reader)
    )


def _typed_reads(flow: Dataflow, node: NodeProto) -> Iterator[tuple[int, str]]:
    """The inputs of a node, with their index, that have to be of a certain type."""
    for index, name in enumerate(node.input):
        if flow.is_float(name) and (node.op_type, index) not in AS_IT_IS:
            yield index, name


def _in_range(flow: Dataflow, node: NodeProto, precision: str) -> bool:
    """Whether the node's constants are finite in this type."""
    if precision == "fp32":
        return True
    tensors = [flow.initializers[name] for name in node.input if name in flow.initializers and flow.is_float(name)]
    return all(np.abs(numpy_helper.to_array(tensor)).max(initial=0) <= LARGEST[precision] for tensor in tensors)


def _overridden(flow: Dataflow, overrides: Mapping[str, str]) -> dict[str, str]:
    """First output of a node -> the precision of the last entry that names it, its group or its stage."""
    names = {node.output[0]: {node.name, flow.stage_of(node)} - {""} for node in flow.nodes}
    for group in (*ISLANDS, *LEFT_IN_HALF) if overrides else ():
        for key in group.members(flow):
            names[key].add(group.name)
    found: dict[str, str] = {}
    for pattern, precision in overrides.items():
        _require_precision(precision, f"override {pattern}")
        matching = [key for key, known in names.items() if any(fnmatch.fnmatchcase(name, pattern) for name in known)]
        if not matching:
            known = sorted(set().union(*names.values()))
            near = difflib.get_close_matches(pattern, known, n=4, cutoff=0.5)
            stages = sorted({flow.stage_of(node) for node in flow.nodes} - {""})
            hint = f"near it: {', '.join(near)}" if near else f"stages: {', '.join(stages)}"
            raise InputError(f"override {pattern}: expected the name of a node, island or stage of the graph; {hint}")
        found.update(dict.fromkeys(matching, precision))
    return found


def _full_precision(proto: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy whose weights are float32, as they were or as half storage rounded them."""
    _require_precision(precision, "precision")
    entries = metadata_of(proto)
    if entries.get(ARITHMETIC, INT8_FOR_TENSORRT) != INT8_FOR_TENSORRT:
        raise InputError(
            f"expected a graph of float32 arithmetic, got one that is typed {entries.get(PRECISION)} already; "
            "start from the file that export/to_onnx.py wrote"
        )
    if entries.get(PRECISION) == "fp16":
        return store_full(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _require_precision(precision: str, where: str) -> None:
    if precision not in TYPES:
        raise InputError(f"{where}: expected {', '.join(TYPES)}, got {precision!r}")


def _part(stage: str) -> str:
    """For the plan's rows: "pixel_decoder.level8" -> "pixel decoder"; what only the results need is the decoder's."""
    return stage.split(".")[0].replace("_", " ") if "." in stage else "decoder"


def _counted(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{nodes[precision]} {precision}" for precision in TYPES if nodes.get(precision))
