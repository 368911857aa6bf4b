"""Which layers a TensorRT engine has: their precision, which of them are ours, and what each costs.

    information = json.loads((folder / "layers.json").read_text())
    rows = layer_table(information, {"conv_1": 0.12})      # name -> ms, from an IProfiler
    print("\\n".join(table_lines(rows)))

layers.json is what TensorRT's inspector says, and under `mask2edge` the names of the graph's nodes that are plugins of
ours: a layer that several nodes were fused into names them in its metadata.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mask2edge.export.onnx_nodes import Node
from mask2edge.export.plan_building import Calls
from mask2edge.runtime.command_line import InputError
from mask2edge.trt_plugins import OP_DOMAIN, PLUGINS

LAYERS_FILE = "layers.json"
OURS = "mask2edge"  # key in layers.json
# How versions of the inspector spell a tensor's type: "Half", "Row major linear FP16 format", "kHALF", …
TYPES = (
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|\bk?float\b|float32", re.IGNORECASE)),
    ("int8", re.compile(r"\bk?int8\b", re.IGNORECASE)),
    ("int64", re.compile(r"\bk?int64\b", re.IGNORECASE)),
    ("int32", re.compile(r"\bk?int32\b", re.IGNORECASE)),
    ("bool", re.compile(r"\bk?bool\b", re.IGNORECASE)),
)


@dataclass(frozen=True)
class LayerRow:
    name: str
    kind: str  # TensorRT's layer type
    precision: str  # of its first output; "" where the inspector does not say
    ours: bool
    ms: float | None = None
    share: float | None = None  # of the time of all layers, 0 to 1


def engine_information(trt: Any, logger: Any, errors: Any, plan: bytes, nodes: Iterable[Node]) -> dict[str, Any]:
    """What layers.json holds, of a plan that this machine can load. Raises InputError where TensorRT refuses."""
    text = _inspected(trt, logger, Calls(errors), plan)
    try:
        information = json.loads(text)
        if not isinstance(information, dict):
            raise ValueError(f"a {type(information).__name__}")
    except ValueError as error:
        raise InputError(
            f"TensorRT could not list the engine's layers (expected a JSON object, got {error})"
        ) from error
    information[OURS] = [node.name or node.output for node in nodes if node.domain == OP_DOMAIN]
    return information


def _inspected(trt: Any, logger: Any, call: Calls, plan: bytes) -> str:
    runtime = engine = inspector = None
    try:
        runtime = call("start its runtime", trt.Runtime, logger)
        engine = call("load the engine that it built", runtime.deserialize_cuda_engine, plan)
        inspector = call("inspect the engine", engine.create_engine_inspector)
        return str(call("list the engine's layers", inspector.get_engine_information, trt.LayerInformationFormat.JSON))
    finally:  # in this order, also where one of them failed
        del inspector
        del engine
        del runtime


def layer_table(information: Mapping[str, Any], times: Mapping[str, float] | None = None) -> list[LayerRow]:
    """One row a layer, in the engine's order. `times`: layer's name -> milliseconds of one inference.

    A time without a layer of that name gets a row too, so that shares are of the whole.
    """
    marks = [*information.get(OURS, ()), *PLUGINS]
    rows = [_row(layer, marks) for layer in information.get("Layers", ())]
    if times is None:
        return rows
    known = {row.name for row in rows}
    rows += [LayerRow(name, "", "", _is_ours(name, marks)) for name in times if name not in known]
    total = sum(times.values()) or 1.0
    return [replace(row, ms=times.get(row.name, 0.0), share=times.get(row.name, 0.0) / total) for row in rows]


def summary(rows: Sequence[LayerRow]) -> str:
    """`412 layers: 390 fp16, 22 fp32; 9 ours`"""
    counted = Counter(row.precision or "other" for row in rows)
    types = ", ".join(f"{count} {name}" for name, count in counted.most_common())
    return f"{len(rows)} layers: {types}; {sum(row.ours for row in rows)} ours"


def table_lines(rows: Sequence[LayerRow], most: int = 20) -> list[str]:
    """The layers that take longest, then the sums by precision and of what is ours; without times, the first ones."""
    timed = any(row.ms is not None for row in rows)
    ordered = sorted(rows, key=lambda row: -(row.ms or 0.0)) if timed else list(rows)
    lines = [f"{'share':>6} {'ms':>8}  {'type':<6} {'':4}  layer" if timed else f"{'type':<6} {'':4}  layer"]
    for row in ordered[:most]:
        cost = f"{100 * (row.share or 0):5.1f}% {row.ms or 0:8.3f}  " if timed else ""
        lines.append(f"{cost}{row.precision or '-':<6} {'ours' if row.ours else '':4}  {_short(row.name)}")
    if len(rows) > most:
        lines.append(f"… and {len(rows) - most} more")
    if timed:
        lines.append("of the time: " + ", ".join(f"{name} {100 * share:.1f}%" for name, share in time_shares(rows)))
    return lines


def time_shares(rows: Sequence[LayerRow]) -> list[tuple[str, float]]:
    """Of each precision, and of "ours", the largest first: 0 to 1."""
    shares: dict[str, float] = {}
    for row in rows:
        for name in (row.precision or "other", *(["ours"] if row.ours else [])):
            shares[name] = shares.get(name, 0.0) + (row.share or 0.0)
    return sorted(shares.items(), key=lambda item: -item[1])


def _row(layer: Any, marks: Sequence[str]) -> LayerRow:
    if not isinstance(layer, Mapping):  # without detailed verbosity the inspector gives names alone
        return LayerRow(str(layer), "", "", _is_ours(str(layer), marks))
    name = str(layer.get("Name", ""))
    said = " ".join(str(layer.get(key, "")) for key in ("Name", "PluginType", "Metadata"))
    kind = str(layer.get("LayerType", ""))
    # A copy into another layout is named after the layer that it is for.
    return LayerRow(name, kind, _precision(layer), kind.lower() != "reformat" and _is_ours(said, marks))


def _precision(layer: Mapping[str, Any]) -> str:
    for tensor in (*layer.get("Outputs", ()), *layer.get("Inputs", ())):
        text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format"))
        for name, spelling in TYPES:
            if spelling.search(text):
                return name
    return ""


def _is_ours(text: str, marks: Sequence[str]) -> bool:
    return not text.startswith("Reformatting") and any(mark in text for mark in marks)


def _short(name: str, most: int = 80) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
