"""A TensorRT build up to the point where it would need a GPU: everything about the graph that can be known without one.

    report = dry_run(onnx.load("models/street-lite.onnx"), description, "fp16")
    print("\\n".join(report.lines()))

The graph is checked, its types are written and checked, each custom node is looked up among the plugins, and memory is
estimated. `python export/build_engine.py --dry-run` prints it; nothing is written. Needs onnx, no torch.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from mask2edge.export.memory_estimate import MemoryEstimate, estimate_memory
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.onnx_nodes import Node, nodes_of
from mask2edge.export.plan_building import require_known_ops
from mask2edge.export.precision import PrecisionPlan, precision_plan, typed_graph
from mask2edge.export.type_check import type_conflicts
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import first_line
from mask2edge.trt_plugins import OP_DOMAIN, register_plugins, tensorrt_plugin_library, why_no_plugin_library

REGISTRIES = ("tensorrt", "tensorrt_lean")  # whichever is here; the lean runtime has no builder, but plugins register


@dataclass(frozen=True)
class DryRun:
    description: Description
    precision: str
    nodes: int
    opset: int
    ours: tuple[Node, ...]
    plugins: str  # what the nodes of ours were checked against
    plan: PrecisionPlan
    memory: MemoryEstimate
    integer: int = 0  # tensors that are quantised to int8

    def lines(self) -> list[str]:
        profile = self.description.profile
        sizes = {name: getattr(profile, name) for name in ("min", "opt", "max")}
        shapes = [f"{name} {batch}x3x{height}x{width}" for name, (batch, height, width) in sizes.items()]
        counted = Counter(node.op for node in self.ours)
        memory = self.memory
        lines = [
            f"graph        {self.nodes} nodes, opset {self.opset}, {self.description.ops} ops; checked, types included",
            f"ours         {', '.join(f'{count} {op}' for op, count in counted.items()) or 'none'}",
            f"plugins      {self.plugins}",
            f"profile      {shapes[0][4:] if profile.min == profile.max else ', '.join(shapes)}",
            f"weights      {_megabytes(memory.weights)}, with the constants that the builder folds",
            f"activations  {_megabytes(memory.activations_by_type)} at {_place(memory)}; an estimate, as if no nodes "
            "were fused, and without scratch memory",
            f"in and out   {_megabytes(memory.inputs_and_outputs)}",
        ]
        if memory.unknown:
            lines.append(f"not counted  {memory.unknown} tensors, whose sizes do not follow from the graph")
        if self.precision == "int8":
            lines.append(f"int8         {self.integer} activations; a build measures their ranges on --calibration")
        if self.description.ops == "standard":
            lines.append("warning      TensorRT 10.13 to 11.1 calculate GridSample wrongly; use --ops custom")
        return [*lines, *self.plan.lines(), *(f"ours         {_label(node)}" for node in self.ours)]

    def to_json(self) -> dict[str, Any]:
        profile = self.description.profile
        return {
            "dry_run": True,
            "backend": "tensorrt",
            "precision": self.precision,
            "ops": self.description.ops,
            "nodes": self.nodes,
            "opset": self.opset,
            "ours": [{"name": node.name, "op": node.op} for node in self.ours],
            "plugins": self.plugins,
            "profile": {name: list(getattr(profile, name)) for name in ("min", "opt", "max")},
            "precision_plan": [
                {"name": row.name, "reason": row.reason, "nodes": dict(row.nodes)} for row in self.plan.rows
            ],
            "weight_bytes": self.memory.weights,
            "activation_bytes": self.memory.activations_by_type,
            "activation_peak": {"tensor": self.memory.peak_at, "stage": self.memory.peak_stage},
            "input_and_output_bytes": self.memory.inputs_and_outputs,
            "tensors_not_counted": self.memory.unknown,
        }


def dry_run(
    proto: onnx.ModelProto, description: Description, precision: str, overrides: Mapping[str, str] | None = None
) -> DryRun:
    """`proto` as export/to_onnx.py writes it. Raises InputError for a graph that TensorRT could not take."""
    nodes = nodes_of(proto.SerializeToString())
    require_known_ops(nodes)
    _check(proto)
    integer = 0
    if precision == "int8":
        from mask2edge.export.quantize import TENSORRT, without_calibration

        proto = without_calibration(proto, TENSORRT)  # ranges decide no types and no sizes
        integer = sum(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    rest = "fp16" if precision == "int8" else precision
    typed = typed_graph(proto, rest, overrides)
    conflicts = type_conflicts(typed)
    if conflicts:
        more = f"; {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise InputError(f"a strongly typed network takes no mixed types: {conflicts[0]}{more}; export the model again")
    ours = tuple(node for node in nodes if node.domain == OP_DOMAIN)
    return DryRun(
        description=description,
        precision=precision,
        nodes=len(nodes),
        opset={entry.domain: entry.version for entry in proto.opset_import}.get("", 1),
        ours=ours,
        plugins=_checked_plugins() if ours else "none needed",
        plan=precision_plan(proto, rest, overrides),
        integer=integer,
        memory=estimate_memory(typed, description.profile),
    )


def _check(proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise InputError(f"expected a sound ONNX graph, got {first_line(error)}; export the model again") from error


def _checked_plugins() -> str:
    """What the plugins were found in. Raises InputError where there is a library and TensorRT does not take it."""
    library = tensorrt_plugin_library()
    if library is None:
        return f"each has one in this version; the library was not tried: {why_no_plugin_library()}"
    for name in REGISTRIES:
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError):
            continue
        try:
            register_plugins(trt)
        except (OSError, ValueError) as error:
            raise InputError(first_line(error)) from error
        return f"{library.name} registers in {name} {trt.__version__}, and has each of them"
    return f"each has one in {library.name}, which was not tried: no TensorRT is installed to register it in"


def _megabytes(sizes: Mapping[str, int]) -> str:
    total = sum(sizes.values())
    parts = sorted(((size, name) for name, size in sizes.items() if size >= 0.001 * total), reverse=True)
    return f"{total / 1e6:.1f} MB ({', '.join(f'{size / 1e6:.1f} {name}' for size, name in parts)})"


def _place(memory: MemoryEstimate) -> str:
    return f"{memory.peak_at}, before {memory.peak_stage}" if memory.peak_stage else memory.peak_at


def _label(node: Node) -> str:
    return f"{node.op}  {node.name or node.output}"
