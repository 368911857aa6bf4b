"""What a builder gets: the ONNX graph of a checkpoint or an ONNX file, in the form that its backend wants.

    graph = graph_of(Path("models/street-lite.onnx"), arguments, "tensorrt")
    graph.model, graph.description.precision

For ONNX Runtime half precision is a way to store weights; for TensorRT it is written into the graph as types. torch and
onnx are imported where they are needed: a device that builds an engine from an ONNX file in the file's own precision
needs neither.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask2edge.export.calibration_options import METHODS, images_from_arguments
from mask2edge.export.input_sizes import given_size_arguments, profile_from_arguments
from mask2edge.export.onnx_metadata import Description, read_description
from mask2edge.export.tensorrt_options import overrides_from_arguments
from mask2edge.runtime.command_line import InputError, say, sha256_of
from mask2edge.runtime.spec import EngineSpec

if TYPE_CHECKING:
    import onnx

ROUNDED = "{}: its weights were rounded to half precision before; the engine has them as they are"


@dataclass(frozen=True)
class Graph:
    model: Any  # a file that is used as it is, or an onnx.ModelProto
    description: Description


def graph_of(source: Path, arguments: argparse.Namespace, backend: str, verified: bool = True) -> Graph:
    """`verified`: a graph exported from a checkpoint is compared with the plain model first.

    Raises InputError where `arguments` do not fit `source`, or a package is missing.
    """
    if source.suffix == ".onnx":
        graph = _from_onnx(source, arguments, backend)
    else:
        graph = _from_checkpoint(source, arguments, backend, verified)
    return _fused(graph) if backend == "onnxruntime" and graph.description.ops == "custom" else graph


def float_graph_of(source: Path, arguments: argparse.Namespace) -> tuple[onnx.ModelProto, Description]:
    """The graph before its types are chosen, for a dry run: not compared with the plain model. Raises as `graph_of`."""
    if source.suffix != ".onnx":
        return _exported(source, arguments, "tensorrt", verified=False)
    description = _checked_description(source, arguments)
    _require_onnx("--dry-run", f"{source}: looking into it")
    return _loaded(source), description


def wished_precision(source: Path, arguments: argparse.Namespace) -> str:
    """What was asked for, else what the file is stored in. Raises InputError for a file that is none of ours."""
    if arguments.precision:
        return str(arguments.precision)
    return read_description(source).precision if source.suffix == ".onnx" else "fp32"


def ops_on_tensorrt(source: Path, arguments: argparse.Namespace) -> str:
    """custom or standard, before anything is exported. Raises InputError for a file that is none of ours."""
    if source.suffix == ".onnx":
        return read_description(source).ops
    return "standard" if arguments.ops == "standard" else "custom"


def _from_checkpoint(source: Path, arguments: argparse.Namespace, backend: str, verified: bool) -> Graph:
    proto, _ = _exported(source, arguments, backend, verified)
    return _converted(proto, arguments.precision or "fp32", arguments, backend, str(source))


def _exported(
    source: Path, arguments: argparse.Namespace, backend: str, verified: bool
) -> tuple[onnx.ModelProto, Description]:
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{source}: an engine from a checkpoint needs torch, which is not installed; "
            "export an ONNX file elsewhere (export/to_onnx.py) and name that"
        )
    from mask2edge.export.half_storage import metadata_of
    from mask2edge.export.to_onnx import export_model, export_verified, resolve_ops
    from mask2edge.train.checkpoint import load_model

    model, checkpoint = load_model(source)
    profile = profile_from_arguments(arguments, checkpoint.spec)
    ops = ops_on_tensorrt(source, arguments) if backend == "tensorrt" else resolve_ops(arguments.ops)
    export = export_verified if verified else export_model
    proto = export(model, checkpoint.spec, profile, ops, sha256_of(source))
    return proto, Description.from_metadata(metadata_of(proto), str(source))


def _from_onnx(source: Path, arguments: argparse.Namespace, backend: str) -> Graph:
    description = _checked_description(source, arguments)
    wished = arguments.precision or description.precision
    if backend == "tensorrt":
        if wished == "fp32" and description.precision == "fp16":
            say(ROUNDED.format(source))
        if wished == "fp32" and not arguments.precision_override and importlib.util.find_spec("onnx") is None:
            say(f"{source}: its constants are not folded beforehand, which takes the package onnx")
            return Graph(source, dataclasses.replace(description, precision=wished))
        _require_onnx(f"--{wished}", f"{source}: writing types into it")
        return _converted(_loaded(source), wished, arguments, backend, str(source))
    if wished == description.precision:
        return Graph(source, description)
    _require_onnx(f"--{wished}", f"{source} stores its weights otherwise, and changing that", ", or leave the flag out")
    return _converted(_loaded(source), wished, arguments, backend, str(source))


def _fused(graph: Graph) -> Graph:
    if isinstance(graph.model, Path) and importlib.util.find_spec("onnx") is None:
        say(f"{graph.model}: used as it is; with the package onnx (pip install onnx) its engine would be faster")
        return graph
    from mask2edge.export.cpu_fusion import fuse_for_cpu

    proto = _loaded(graph.model) if isinstance(graph.model, Path) else graph.model
    return Graph(fuse_for_cpu(proto), graph.description)


def _checked_description(source: Path, arguments: argparse.Namespace) -> Description:
    description = read_description(source)
    given = given_size_arguments(arguments)
    if given:
        raise InputError(
            f"{given[0]}: expected none for an ONNX file, whose input is {describe_input(description)}; "
            "build from a checkpoint, or export again with export/to_onnx.py"
        )
    if arguments.ops not in ("auto", description.ops):
        raise InputError(
            f"--ops {arguments.ops}: {source} has {description.ops} ops; export again with export/to_onnx.py"
        )
    return description


def _converted(
    proto: onnx.ModelProto, precision: str, arguments: argparse.Namespace, backend: str, where: str
) -> Graph:
    from mask2edge.export.half_storage import metadata_of, store_full, store_half_verified

    if metadata_of(proto).get("mask2edge.precision") == "int8":
        raise InputError(f"--{precision}: {where} is int8 already; start from the file that export/to_onnx.py wrote")
    if precision == "int8":
        return _quantized(proto, arguments, backend, where)
    if backend == "tensorrt":
        from mask2edge.export.precision import typed_graph

        proto = typed_graph(proto, precision, overrides_from_arguments(arguments))
        description = Description.from_metadata(metadata_of(proto), where)
        return Graph(proto, dataclasses.replace(description, precision=precision))
    stored = metadata_of(proto).get("mask2edge.precision")
    if precision == "fp16":
        proto = store_half_verified(proto)
    elif stored != precision:
        say(ROUNDED.format(where))
        proto = store_full(proto)
    return Graph(proto, Description.from_metadata(metadata_of(proto), where))


def needs_calibration(source: Path, arguments: argparse.Namespace) -> bool:
    """Whether int8 is asked for, and is not in the file yet. Raises InputError for a file that is none of ours."""
    return arguments.precision == "int8" and (source.suffix != ".onnx" or read_description(source).precision != "int8")


def _quantized(proto: onnx.ModelProto, arguments: argparse.Namespace, backend: str, where: str) -> Graph:
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError("--int8: calibration runs the network on ONNX Runtime; pip install onnxruntime")
    from mask2edge.export.half_storage import metadata_of
    from mask2edge.export.precision import typed_graph
    from mask2edge.export.quantize import ONNXRUNTIME, TENSORRT, calibrated, quantized

    images = images_from_arguments(arguments)
    method = arguments.calibration_method or METHODS[0]
    say(f"calibrating on {len(images)} images of {arguments.calibration}, {method}")
    calibration = calibrated(proto, images, method)
    if backend == "tensorrt":
        proto = typed_graph(quantized(calibration, TENSORRT), "fp16", overrides_from_arguments(arguments))
    else:
        proto = quantized(calibration, ONNXRUNTIME)
    return Graph(proto, Description.from_metadata(metadata_of(proto), where))


def _loaded(source: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(source)
    except DecodeError as error:
        raise InputError(f"{source}: expected a whole ONNX file, got a damaged one; copy or export it again") from error


def _require_onnx(flag: str, what: str, otherwise: str = "") -> None:
    if importlib.util.find_spec("onnx") is None:
        raise InputError(f"{flag}: {what} needs the package onnx; pip install onnx{otherwise}")


def describe_input(description: EngineSpec | Description) -> str:
    low, high = ("x".join(map(str, sizes)) for sizes in (description.profile.min, description.profile.max))
    return f"{low} (batch x height x width)" if low == high else f"{low} to {high} (batch x height x width)"
