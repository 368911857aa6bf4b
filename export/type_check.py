"""Whether a graph could be a strongly typed network: inputs that an operator wants of one type are of one type.

    conflicts = type_conflicts(typed)      # one line each; empty where the graph is sound

TensorRT takes the types as they are written and converts nothing by itself, so a missing Cast stops the build; onnx's
own checker does not look at bfloat16, which opset 18 does not allow for every operator that TensorRT runs in it.
No torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import NodeProto, TensorProto, defs

from mask2edge.export.dataflow import Dataflow
from mask2edge.trt_plugins import OP_DOMAIN

FLOAT, INT32 = "tensor(float)", "tensor(int32)"
# Inputs of the plugins; those with the same letter are of one type.
PLUGIN_INPUTS = {
    "MultiscaleDeformableAttention": ("T", "O", "O", FLOAT, INT32),
    "MaskedAttention": ("T", "T", "T", FLOAT),
}
# Opset 18 has scales in float32 alone; TensorRT takes them in the type of the floats that they belong to.
QUANTIZATION_INPUTS = {"QuantizeLinear": ("T", "T", "Z"), "DequantizeLinear": ("Z", "T", "Z")}
FIXED = {FLOAT: TensorProto.FLOAT, INT32: TensorProto.INT32, "tensor(int64)": TensorProto.INT64}


def type_conflicts(proto: onnx.ModelProto) -> list[str]:
    flow = Dataflow(proto)
    opset = {entry.domain: entry.version for entry in proto.opset_import}.get("", 1)
    found = [line for node in flow.nodes for line in _conflicts(flow, node, opset)]
    for name in (*(value.name for value in proto.graph.input), *flow.outputs):
        if flow.types.get(name) != TensorProto.FLOAT:
            found.append(f"{name}: expected float32 at the network's border, got {_name(flow, name)}")
    return found


def _conflicts(flow: Dataflow, node: NodeProto, opset: int) -> Iterable[str]:
    wanted = PLUGIN_INPUTS.get(node.op_type) if node.domain == OP_DOMAIN else _formal_types(node, opset)
    if wanted is None:
        return
    label = f"{node.name or node.output[0]} ({node.op_type})"
    if node.domain == OP_DOMAIN and len(node.input) != len(wanted):
        yield f"{label}: expected {len(wanted)} inputs, got {len(node.input)}"
    first: dict[str, str] = {}
    for name, kind in zip(node.input, wanted, strict=False):
        if not name:
            continue
        if kind in FIXED:
            if flow.types.get(name) != FIXED[kind]:
                yield f"{label}: expected {name} as {kind}, got {_name(flow, name)}"
        elif flow.types.get(name) != flow.types.get(first.setdefault(kind, name)):
            yield f"{label}: {first[kind]} is {_name(flow, first[kind])} and {name} is {_name(flow, name)}"


def _formal_types(node: NodeProto, opset: int) -> tuple[str, ...] | None:
    """Of each input, the type or the letter that stands for one; None for an operator that is not ONNX's."""
    if node.op_type in QUANTIZATION_INPUTS:
        return QUANTIZATION_INPUTS[node.op_type]
    try:
        schema = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return None
    kinds = [formal.type_str for formal in schema.inputs]
    if kinds and schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
        alike = kinds[-1] if schema.inputs[-1].is_homogeneous else ""
        kinds += [alike] * (len(node.input) - len(kinds))
    return tuple(kinds)


def _name(flow: Dataflow, tensor: str) -> str:
    return str(TensorProto.DataType.Name(flow.types.get(tensor, 0))).lower()
