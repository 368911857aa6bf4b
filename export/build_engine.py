"""Builds an engine from a checkpoint (needs torch) or from an ONNX file (needs neither torch nor the training code).

python export/build_engine.py models/street-lite.safetensors --fp16
python export/build_engine.py models/street-lite.safetensors --fp16 --dry-run      # what TensorRT would get
python export/build_engine.py                                                      # the shipped demo model
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mask2edge.export.backends import (
    HALF_STORAGE,
    choose_backend,
    describe_precision,
    require_precision,
    why_no_plugins,
)
from mask2edge.export.calibration_options import (
    add_calibration_arguments,
    given_calibration_arguments,
    images_from_arguments,
)
from mask2edge.export.engine_check import one_line_for_disk_errors
from mask2edge.export.engine_sources import (
    Graph,
    describe_input,
    float_graph_of,
    graph_of,
    needs_calibration,
    ops_on_tensorrt,
    wished_precision,
)
from mask2edge.export.input_sizes import add_size_arguments
from mask2edge.export.tensorrt_options import (
    add_tensorrt_arguments,
    given_tensorrt_arguments,
    options_from_arguments,
    overrides_from_arguments,
)
from mask2edge.runtime.command_line import InputError, command, say
from mask2edge.runtime.spec import EngineSpec
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing

# Everything that needs torch, onnx or a backend is imported where it is used: a Jetson builds from ONNX without them.

DEFAULT_MODEL = "street-lite"


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    started = time.perf_counter()
    if arguments.dry_run:
        return print_dry_run(arguments)
    backend, reason = choose_backend(arguments.backend)
    source = arguments.source or default_source(on_tensorrt=backend == "tensorrt")
    say(f"backend {backend}: {reason}")
    check_flags(arguments, backend)
    out = engine_path(source, arguments, wished_precision(source, arguments))
    if backend == "tensorrt":
        require_plugins(source, arguments)
    if needs_calibration(source, arguments):
        images_from_arguments(arguments)  # a missing folder is known before an export that takes a minute
    spec = build(graph_of(source, arguments, backend), out, arguments, backend)
    report(spec, out, time.perf_counter() - started, arguments.json)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build an engine from a checkpoint or an ONNX file.",
        epilog="example: python export/build_engine.py models/street-lite.safetensors --fp16 --size 512x512",
    )
    parser.add_argument("source", nargs="?", type=Path, help="a .safetensors or .onnx file (default: the demo model)")
    precision = parser.add_mutually_exclusive_group()
    for name, text in (
        ("fp32", "single precision (default)"),
        ("fp16", f"on TensorRT arithmetic, fp32 where it matters; on ONNX Runtime {HALF_STORAGE}"),
        ("bf16", "on TensorRT: as --fp16, with the range of fp32 and a third of the digits"),
        (
            "int8",
            "convolutions and linear layers over tokens in int8, the rest in fp32, on TensorRT in fp16",
        ),
    ):
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name, help=text)
    parser.add_argument(
        "--backend",
        choices=("auto", "tensorrt", "onnxruntime"),
        default="auto",
        help="auto: tensorrt where a GPU, TensorRT and the plugins are, else onnxruntime",
    )
    parser.add_argument(
        "--ops",
        choices=("auto", "custom", "standard"),
        default="auto",
        help="auto: custom on tensorrt; on onnxruntime custom where their library is built",
    )
    parser.add_argument("--out", type=Path, help="default: artifacts/<source's name>-<precision>.engine")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the graph and print what TensorRT would get, without a GPU; nothing is written",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_size_arguments(parser)
    add_calibration_arguments(parser)
    add_tensorrt_arguments(parser)
    return parser.parse_args(argv)


def check_flags(arguments: argparse.Namespace, backend: str) -> None:
    """Raises InputError for flags that contradict each other or the backend."""
    if arguments.precision:
        require_precision(arguments.precision, backend)
    calibration = given_calibration_arguments(arguments)
    if calibration and arguments.precision != "int8":
        raise InputError(f"{calibration[0]}: expected together with --int8, got an engine of another precision")
    given = given_tensorrt_arguments(arguments)
    if given and backend != "tensorrt":
        raise InputError(f"{given[0]}: expected together with --backend tensorrt, got an engine for {backend}")
    options_from_arguments(arguments)
    overrides_from_arguments(arguments)


def require_plugins(source: Path, arguments: argparse.Namespace) -> None:
    """Raises InputError where the model's ops have no plugins here: known before an export that takes a minute."""
    obstacle = why_no_plugins() if ops_on_tensorrt(source, arguments) == "custom" else ""
    if obstacle:
        raise InputError(f"{source}: its custom ops have no plugins here: {obstacle}")


def default_source(on_tensorrt: bool = False) -> Path:
    """The shipped demo model: the checkpoint where torch is, else the ONNX file that this machine can run.

    Raises InputError where it is not there.
    """
    if importlib.util.find_spec("torch"):
        name = f"{DEFAULT_MODEL}.safetensors"
    elif on_tensorrt or onnxruntime_ops_library() is not None:
        name = f"{DEFAULT_MODEL}.onnx"
    else:
        say(f"standard ops, which are slower: {why_missing()}")
        name = f"{DEFAULT_MODEL}-standard.onnx"
    candidates = [root / "models" / name for root in (Path(), Path(__file__).resolve().parents[1])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"no file named, and the demo model is not here ({candidates[-1]}); name a .safetensors or .onnx file, "
        "or train one with train/train.py"
    )


def build(graph: Graph, out: Path, arguments: argparse.Namespace, backend: str) -> EngineSpec:
    with one_line_for_disk_errors(out):
        return _built(graph, out, arguments, backend)


def _built(graph: Graph, out: Path, arguments: argparse.Namespace, backend: str) -> EngineSpec:
    if backend == "tensorrt":
        from mask2edge.export.tensorrt_builder import build_tensorrt_engine

        return build_tensorrt_engine(graph.model, graph.description, out, options_from_arguments(arguments))
    from mask2edge.export.onnxruntime_builder import build_onnxruntime_engine

    if isinstance(graph.model, Path):
        return build_onnxruntime_engine(graph.model, graph.description, out)
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(graph.model, file)
        return build_onnxruntime_engine(file, graph.description, out)


def print_dry_run(arguments: argparse.Namespace) -> int:
    if arguments.backend == "onnxruntime":
        raise InputError("--dry-run: expected --backend tensorrt; an engine for onnxruntime is built in seconds")
    check_flags(arguments, "tensorrt")
    source = arguments.source or default_source(on_tensorrt=True)
    precision = wished_precision(source, arguments)
    if importlib.util.find_spec("onnx") is None:
        raise InputError(f"--dry-run: looking into {source} needs the package onnx; pip install onnx")
    from mask2edge.export.dry_run import dry_run

    proto, description = float_graph_of(source, arguments)
    found = dry_run(proto, description, precision, overrides_from_arguments(arguments))
    out = engine_path(source, arguments, precision)
    if arguments.json:
        print(json.dumps({"source": str(source), "engine": str(out), **found.to_json()}, indent=1))
    else:
        print(f"dry run      {source} to {out}; nothing was written")
        print("\n".join(found.lines()))
    return 0


def report(spec: EngineSpec, out: Path, seconds: float, as_json: bool) -> None:
    size = sum(file.stat().st_size for file in out.iterdir())
    layers = summarise_layers(out)
    if as_json:
        profile = {name: getattr(spec.profile, name) for name in ("min", "opt", "max")}
        about = {name: getattr(spec, name) for name in ("backend", "backend_version", "precision", "ops", "sm")}
        print(json.dumps({"engine": str(out), **about, "profile": profile, "bytes": size, "seconds": seconds}))
        return
    print(out)
    print(f"  precision  {describe_precision(spec.precision, spec.backend)}")
    print(f"  backend    {spec.backend} {spec.backend_version}, {spec.ops} ops")
    print(f"  input      {describe_input(spec)}")
    if layers:
        print(f"  layers     {layers}")
    print(f"  size       {size / 1e6:.1f} MB, built in {seconds:.1f} s")


def summarise_layers(engine: Path) -> str:
    from mask2edge.export.engine_inspection import LAYERS_FILE, layer_table, summary

    path = engine / LAYERS_FILE
    return summary(layer_table(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else ""


def engine_path(source: Path, arguments: argparse.Namespace, precision: str) -> Path:
    out: Path = arguments.out or Path("artifacts") / f"{source.stem}-{precision}.engine"
    if out.suffix != ".engine":
        raise InputError(f"--out: expected a name ending in .engine, got {out}")
    return out


if __name__ == "__main__":
    sys.exit(main())
