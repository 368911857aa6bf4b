"""What a user may choose about a TensorRT build, and the command-line arguments for it. Standard library only.

options = options_from_arguments(parser.parse_args(["model.onnx", "--workspace", "2048", "--optimization-level", "4"]))
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from mask2edge.runtime.command_line import InputError

LEVELS = range(6)  # of TensorRT's builder optimisation
DLA = (
    "DLA is left out: a Jetson's accelerator takes no plugins, no product of two tensors and no LayerNormalization, so "
    "only parts of the backbone could run on it, with a copy at every border."
)


@dataclass(frozen=True)
class TensorrtOptions:
    workspace: int | None = None  # MiB that a kernel may use as scratch memory; None: as much as the device has
    timing_cache: Path | None = None  # None: timing_cache.default_path
    optimization_level: int | None = None  # None: TensorRT's own, which is 3
    tf32: bool = False
    refit: bool = False
    version_compatible: bool = False


def add_tensorrt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TensorRT", DLA)
    group.add_argument(
        "--workspace", type=int, metavar="MiB", help="scratch memory that a kernel may use (default: all of the GPU's)"
    )
    group.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="measured kernels, read before the build and written after it; makes the next build faster "
        "(default: artifacts/tensorrt-<version>-<device>.timing-cache)",
    )
    group.add_argument(
        "--optimization-level", type=int, metavar="0-5", help="how long to look for faster kernels (default: 3)"
    )
    group.add_argument(
        "--tf32", action="store_true", help="let products of float32 round their factors to 10 bits, which is faster"
    )
    group.add_argument("--refit", action="store_true", help="an engine whose weights can be exchanged later")
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="an engine that newer versions of TensorRT run too, given the lean runtime of the version that built it",
    )
    group.add_argument(
        "--precision-override",
        action="append",
        default=[],
        metavar="NODE=TYPE",
        help="fp32, fp16 or bf16 for a node, an island or a stage, which --dry-run lists; * and ? match; may be given "
        "again, the last one wins",
    )


def given_tensorrt_arguments(arguments: argparse.Namespace) -> list[str]:
    """The flags of this group that the user gave."""
    names = (
        "workspace", "timing_cache", "optimization_level", "tf32", "refit", "version_compatible", "precision_override",
    )  # fmt: skip
    return ["--" + name.replace("_", "-") for name in names if getattr(arguments, name) not in (None, False, [])]


def options_from_arguments(arguments: argparse.Namespace) -> TensorrtOptions:
    """Raises InputError for a value that no build can have."""
    if arguments.workspace is not None and arguments.workspace < 1:
        raise InputError(f"--workspace: expected at least 1 MiB, got {arguments.workspace}")
    level = arguments.optimization_level
    if level is not None and level not in LEVELS:
        raise InputError(f"--optimization-level: expected 0 to {LEVELS[-1]}, got {level}")
    cache = arguments.timing_cache
    if cache is not None and cache.exists() and not cache.is_file():
        raise InputError(f"--timing-cache: expected the name of a file, got {cache}; choose another")
    return TensorrtOptions(
        arguments.workspace, cache, level, arguments.tf32, arguments.refit, arguments.version_compatible
    )


def overrides_from_arguments(arguments: argparse.Namespace) -> dict[str, str]:
    """--precision-override, as name -> precision. Raises InputError for one that is no NODE=TYPE."""
    found: dict[str, str] = {}
    for text in arguments.precision_override:
        name, sign, precision = text.rpartition("=")
        if not sign or not name:
            raise InputError(f"--precision-override: expected NODE=TYPE such as backbone.res5=fp32, got {text!r}")
        if precision not in ("fp32", "fp16", "bf16"):
            raise InputError(f"--precision-override {name}: expected fp32, fp16 or bf16, got {precision!r}")
        found.pop(name, None)  # what is given again goes to the end: the last one wins
        found[name] = precision
    return found
