"""Command-line arguments for the input sizes of a network, and the profile that they mean.

    profile = profile_from_arguments(parser.parse_args(["--size", "512x1024"]), spec)

No torch, no onnx: `build_engine.py` starts with it.
"""

from __future__ import annotations

import argparse
import re

from mask2edge.runtime.command_line import InputError, parse_size
from mask2edge.runtime.spec import SIZE_DIVISOR, ModelSpec, Profile

DEFAULT_MAX_BATCH = 4


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input sizes")
    group.add_argument("--size", metavar="HxW", help="fixed, padded input size (default: the checkpoint's)")
    group.add_argument("--batch", type=int, metavar="N", help="fixed batch size (default: 1)")
    group.add_argument("--dynamic", action="store_true", help="batch, height and width between --min and --max")
    for name in ("min", "opt", "max"):
        group.add_argument(f"--{name}", metavar="NxHxW", help=f"with --dynamic: the {name} input, such as 1x512x512")


def given_size_arguments(arguments: argparse.Namespace) -> list[str]:
    """The flags of this group that the user gave."""
    return [f"--{name}" for name in ("size", "batch", "dynamic", "min", "opt", "max") if getattr(arguments, name)]


def profile_from_arguments(arguments: argparse.Namespace, spec: ModelSpec) -> Profile:
    """Raises InputError where the arguments contradict each other."""
    if not arguments.dynamic:
        for name in ("min", "opt", "max"):
            if getattr(arguments, name):
                raise InputError(f"--{name}: expected together with --dynamic; a fixed size is --size HxW")
        if arguments.batch is not None and arguments.batch < 1:
            raise InputError(f"--batch: expected at least 1, got {arguments.batch}")
        height, width = parse_size(arguments.size) if arguments.size else spec.size
        return Profile.fixed(height, width, arguments.batch or 1)
    if arguments.size or arguments.batch is not None:
        raise InputError("--dynamic: expected --min, --opt and --max, which hold batch and size; got --size or --batch")
    # By default everything that the preprocessing can give fits: its longest edge may stand or lie.
    edge = -(-max(spec.preprocessing.longest_edge, *spec.size) // SIZE_DIVISOR) * SIZE_DIVISOR
    low = parse_batch_and_size("--min", arguments.min) if arguments.min else (1, SIZE_DIVISOR, SIZE_DIVISOR)
    high = parse_batch_and_size("--max", arguments.max) if arguments.max else (DEFAULT_MAX_BATCH, edge, edge)
    if arguments.opt:
        best = parse_batch_and_size("--opt", arguments.opt)
    else:
        usual = (1, *spec.size)
        clamped = [min(max(a, b), c) for a, b, c in zip(low, usual, high, strict=True)]
        best = (clamped[0], clamped[1], clamped[2])
    profile = Profile(low, best, high)
    if profile.min == profile.max:
        raise InputError("--dynamic: expected --min and --max that differ; a fixed size is --size HxW")
    return profile


def parse_batch_and_size(flag: str, text: str) -> tuple[int, int, int]:
    """`4x512x1024` -> (4, 512, 1024). Raises InputError."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"{flag}: expected BATCHxHEIGHTxWIDTH such as 1x512x1024, got {text!r}")
    batch, height, width = (int(number) for number in match.groups())
    if not batch or not height or not width or height % SIZE_DIVISOR or width % SIZE_DIVISOR:
        raise InputError(f"{flag}: expected a batch of at least 1 and multiples of {SIZE_DIVISOR}, got {text}")
    return batch, height, width
