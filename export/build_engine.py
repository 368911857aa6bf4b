"""Builds an engine from a checkpoint (needs torch) or from an ONNX file (needs neither torch nor the training code).

python export/build_engine.py models/street-lite.safetensors --fp16
python export/build_engine.py                                          # the shipped demo model
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mask2edge.export.backends import HALF_STORAGE, choose_backend, require_precision
from mask2edge.export.input_sizes import add_size_arguments, given_size_arguments, profile_from_arguments
from mask2edge.export.onnx_metadata import Description, read_description
from mask2edge.runtime.command_line import InputError, command, say, sha256_of
from mask2edge.runtime.spec import EngineSpec
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing

# Everything that needs torch or onnx is imported where it is used: a Jetson builds from ONNX without them.

DEFAULT_MODEL = "street-lite"
PRECISIONS = {"fp32": "fp32", "fp16": f"fp16: {HALF_STORAGE}"}


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    started = time.perf_counter()
    source = arguments.source or default_source()
    backend, reason = choose_backend(arguments.backend)
    say(f"backend {backend}: {reason}")
    if arguments.precision:
        require_precision(arguments.precision, backend)
    if arguments.calibration:
        raise InputError("--calibration: expected together with --int8, which this version does not have yet")
    if source.suffix == ".onnx":
        spec, out = build_from_onnx(source, arguments)
    else:
        spec, out = build_from_checkpoint(source, arguments)
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(out)
    print(f"  precision  {PRECISIONS[spec.precision]}")
    print(f"  backend    {spec.backend} {spec.backend_version}, {spec.ops} ops")
    print(f"  input      {describe_input(spec)}")
    print(f"  size       {size:.1f} MB, built in {time.perf_counter() - started:.1f} s")
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
        ("fp16", f"on ONNX Runtime: {HALF_STORAGE}"),
        ("bf16", "not in this version"),
        ("int8", "not in this version"),
    ):
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name, help=text)
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="images for --int8")
    parser.add_argument("--backend", choices=("auto", "tensorrt", "onnxruntime"), default="auto")
    parser.add_argument(
        "--ops",
        choices=("auto", "custom", "standard"),
        default="auto",
        help="auto: custom where their library is built",
    )
    parser.add_argument("--out", type=Path, help="default: artifacts/<source's name>-<precision>.engine")
    add_size_arguments(parser)
    return parser.parse_args(argv)


def default_source() -> Path:
    """The shipped demo model: the checkpoint where torch is, else the ONNX file that this machine can run.

    Raises InputError where it is not there.
    """
    if importlib.util.find_spec("torch"):
        name = f"{DEFAULT_MODEL}.safetensors"
    elif onnxruntime_ops_library() is not None:
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


def build_from_checkpoint(source: Path, arguments: argparse.Namespace) -> tuple[EngineSpec, Path]:
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{source}: an engine from a checkpoint needs torch, which is not installed; "
            "export an ONNX file elsewhere (export/to_onnx.py) and name that"
        )
    import onnx

    from mask2edge.export.onnxruntime_builder import build_onnxruntime_engine
    from mask2edge.export.precision import metadata_of, store_half_verified
    from mask2edge.export.to_onnx import export_verified, resolve_ops
    from mask2edge.train.checkpoint import load_model

    model, checkpoint = load_model(source)
    profile = profile_from_arguments(arguments, checkpoint.spec)
    out = engine_path(source, arguments, arguments.precision or "fp32")
    proto = export_verified(model, checkpoint.spec, profile, resolve_ops(arguments.ops), sha256_of(source))
    if arguments.precision == "fp16":
        proto = store_half_verified(proto)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(proto, file)
        description = Description.from_metadata(metadata_of(proto), str(source))
        return build_onnxruntime_engine(file, description, out), out


def build_from_onnx(source: Path, arguments: argparse.Namespace) -> tuple[EngineSpec, Path]:
    from mask2edge.export.onnxruntime_builder import build_onnxruntime_engine

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
    wished = arguments.precision or description.precision
    out = engine_path(source, arguments, wished)
    if wished == description.precision:
        return build_onnxruntime_engine(source, description, out), out
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        description = convert_storage(source, wished, file)
        return build_onnxruntime_engine(file, description, out), out


def convert_storage(source: Path, precision: str, target: Path) -> Description:
    """Writes `source` to `target` with weights stored as `precision`. Raises InputError without the onnx package."""
    if importlib.util.find_spec("onnx") is None:
        raise InputError(
            f"--{precision}: {source} stores its weights otherwise, and changing that needs the package onnx; "
            "pip install onnx, or leave the flag out"
        )
    import onnx

    from mask2edge.export.precision import metadata_of, store_full, store_half_verified

    proto = onnx.load(source)
    if precision == "fp16":
        proto = store_half_verified(proto)
    else:
        say(f"{source}: its weights were rounded to half precision before; the engine has them as they are")
        proto = store_full(proto)
    onnx.save(proto, target)
    return Description.from_metadata(metadata_of(proto), str(source))


def engine_path(source: Path, arguments: argparse.Namespace, precision: str) -> Path:
    out: Path = arguments.out or Path("artifacts") / f"{source.stem}-{precision}.engine"
    if out.suffix != ".engine":
        raise InputError(f"--out: expected a name ending in .engine, got {out}")
    return out


def describe_input(description: EngineSpec | Description) -> str:
    low, high = ("x".join(map(str, sizes)) for sizes in (description.profile.min, description.profile.max))
    return f"{low} (batch x height x width)" if low == high else f"{low} to {high} (batch x height x width)"


if __name__ == "__main__":
    sys.exit(main())
