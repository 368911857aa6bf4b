"""int8: a float32 graph with QuantizeLinear and DequantizeLinear written around its convolutions and linear layers.

    calibration = calibrated(proto, calibration_images(Path("camvid/train")))
    for_cpu = quantized(calibration, ONNXRUNTIME)           # or TENSORRT: the two files differ, the ranges do not

Which parts are int8 is the table of quantization_groups.py; custom ops, norms, softmax, everything of the decoder's
queries and the products of masks stay in float. What TensorRT gets is float32 around the Q/DQ pairs; precision.py then
writes half types into the rest. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import onnx

from mask2edge.export.calibration import Ranges, calibrate
from mask2edge.export.calibration_options import METHODS
from mask2edge.export.constant_folding import fold_constants
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.graph_shapes import tensor_shapes
from mask2edge.export.half_storage import metadata_of, store_full
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.qdq_writer import ONNXRUNTIME, TENSORRT, QdqPlan, Scheme
from mask2edge.export.quantization_groups import QUANTIZED, groups_of
from mask2edge.export.token_convolutions import linears_as_convolutions
from mask2edge.runtime.command_line import InputError

PRECISION, ARITHMETIC, CALIBRATION = "mask2edge.precision", "mask2edge.arithmetic", "mask2edge.calibration"
INT8 = "int8"


@dataclass(frozen=True)
class Calibration:
    """`proto`: the float32 graph, weights as constants; `ranges`: of its tensors; `origin`: how they were found."""

    proto: onnx.ModelProto
    ranges: Ranges
    origin: str


def calibrated(proto: onnx.ModelProto, images: Sequence[Path], method: str = METHODS[0]) -> Calibration:
    """The ranges for both backends and any choice of groups. Raises InputError as `calibrate` does."""
    full = float_graph(proto)
    every = frozenset(groups_of(Dataflow(full)).values())
    tensors: dict[str, None] = {}
    for scheme in (ONNXRUNTIME, TENSORRT):
        plan, origins = _planned(full, scheme, every)
        tensors |= dict.fromkeys(origins.get(name, name) for name in plan.tensors)
    return Calibration(full, calibrate(full, list(tensors), images, method), f"{method}, {len(images)} images")


def quantized(calibration: Calibration, scheme: Scheme, groups: Set[str] = QUANTIZED) -> onnx.ModelProto:
    """An int8 copy for the backend of `scheme`; `groups`: names of quantization_groups.GROUPS."""
    plan, origins = _planned(calibration.proto, scheme, groups)
    written = plan.written({name: calibration.ranges[origins.get(name, name)] for name in plan.tensors})
    return _labelled(written, scheme, calibration.origin)


def without_calibration(proto: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """The int8 graph with ranges that mean nothing: its nodes, types and sizes are those of a calibrated one."""
    plan, _ = _planned(float_graph(proto), scheme, QUANTIZED)
    return _labelled(plan.written(dict.fromkeys(plan.tensors, (-1.0, 1.0))), scheme, "none")


def float_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy whose weights are constants. Raises InputError for a graph whose types were chosen before."""
    entries = metadata_of(proto)
    if ARITHMETIC in entries:
        raise InputError(
            f"expected a graph of float32 arithmetic, got one that is {entries.get(PRECISION)} already; "
            "start from the file that export/to_onnx.py wrote"
        )
    return fold_constants(store_full(proto), growing=False)


def _planned(proto: onnx.ModelProto, scheme: Scheme, groups: Set[str]) -> tuple[QdqPlan, dict[str, str]]:
    """The plan on the form of the graph that the backend wants, and the old names of its new tensors."""
    keys = {key for key, group in groups_of(Dataflow(proto)).items() if group in groups}
    if scheme is not ONNXRUNTIME:
        return QdqPlan(proto, keys, scheme), {}
    profile = Description.from_metadata(metadata_of(proto), "the graph").profile
    batch, height, width = profile.opt
    ranks = {name: len(shape) for name, shape in tensor_shapes(proto, (batch, 3, height, width)).items()}
    graph, origins = linears_as_convolutions(proto, keys, ranks)
    convolutions = {node.output[0] for node in graph.graph.node if node.op_type == "Conv"}
    return QdqPlan(graph, {key for key in convolutions if key in keys or key in origins}, scheme), origins


def _labelled(proto: onnx.ModelProto, scheme: Scheme, origin: str) -> onnx.ModelProto:
    for entry in proto.metadata_props:
        if entry.key == PRECISION:
            entry.value = INT8
    proto.metadata_props.add(key=ARITHMETIC, value=f"{INT8} for {scheme.name}")
    proto.metadata_props.add(key=CALIBRATION, value=origin)
    return proto
