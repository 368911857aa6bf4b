"""One input through every backend, compared stage by stage with the checkpoint on PyTorch: where does it diverge first?

    python benchmarks/compare_backends.py models/street-lite.safetensors --precision fp16
    python benchmarks/compare_backends.py artifacts/street-lite-fp16.engine          # what ships, with its checkpoint
    python benchmarks/compare_backends.py models/street-lite.onnx --fail-on pixels   # for CI: exit code 1

PyTorch in float32 is the reference; ONNX Runtime with standard and with custom ops and TensorRT are compared with it,
by Polygraphy's comparator. A checkpoint becomes what `export/build_engine.py` would build of it. The report has every
stage's difference, the bits of masks and the pixels of the label map that flipped, and the first stage beyond the
tolerance. What cannot run here is named with its reason. docs/compare-backends.md has an example. Exit code 0 whatever
the differences are; with --fail-on 1 where a backend diverges, or is there and cannot run; 2 for bad input.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.backends.differences import TOLERANCES, Tolerance
from mask2edge.benchmarks.backends.stages import COUNTED
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.export.calibration_options import (
    add_calibration_arguments,
    given_calibration_arguments,
    images_from_arguments,
)
from mask2edge.runtime.command_line import InputError, command, parse_size
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import TASKS
from mask2edge.runtime.spec import Profile

if TYPE_CHECKING:
    from mask2edge.benchmarks.backends.comparison import Outcome

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
NEEDED = ("polygraphy", "torch", "onnx", "onnxruntime")


def compare(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Outcome]]:
    """The report as one JSON object, and what it was made of. Raises InputError."""
    require_packages()
    from mask2edge.benchmarks.backends.comparison import Reference
    from mask2edge.benchmarks.backends.report import failures, outcome_to_json
    from mask2edge.benchmarks.backends.sources import subject_of
    from mask2edge.train.checkpoint import load_model

    subject = subject_of(
        arguments.source, arguments.checkpoint, arguments.precision, list(flags_for_builder(arguments))
    )
    picture = arguments.image or sample_photograph()
    image = read_image(picture)
    model, checkpoint = load_model(subject.checkpoint)
    size = parse_size(arguments.size) if arguments.size else checkpoint.spec.size
    profile = subject.profile or Profile.fixed(*size)
    tolerance = replace(TOLERANCES[subject.precision], **dict(arguments.tolerance))
    reference = Reference(model, checkpoint.spec, profile, image, arguments.task)
    _, _, height, width = shape = reference.pixels.shape
    outcomes = [reference.compare(backend, tolerance) for backend in subject.backends(shape)]
    if all(outcome.not_run for outcome in outcomes):
        reasons = "; ".join(f"{outcome.backend.name}: {outcome.not_run}" for outcome in outcomes)
        raise InputError(f"{arguments.source}: expected a backend that can run it here, got none: {reasons}")
    found = failures(outcomes, arguments.fail_on) if arguments.fail_on else None
    report = {
        "source": str(arguments.source),
        "checkpoint": str(subject.checkpoint),
        "image": str(arguments.image or picture.name),
        "height": height,
        "width": width,
        "task": reference.task,
        "precision": subject.precision,
        "tolerance": asdict(tolerance),
        "reference": "torch, float32",
        "backends": [outcome_to_json(outcome) for outcome in outcomes],
        "fail_on": arguments.fail_on,
        "passed": None if found is None else not found,
        "failures": found,
        "versions": machine.package_versions(),
    }
    return report, outcomes


def require_packages() -> None:
    """Raises InputError that names what is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"comparing backends needs {', '.join(NEEDED)}, got none of {', '.join(missing)}; "
            "pip install 'mask2edge[bench]'"
        )


def flags_for_builder(arguments: argparse.Namespace) -> Iterator[str]:
    """What build_engine.py is to know of a checkpoint's engines, besides their precision. Raises InputError."""
    if arguments.size:
        height, width = parse_size(arguments.size)
        yield from ("--size", f"{height}x{width}")
    calibration = given_calibration_arguments(arguments)
    if calibration and arguments.precision != "int8":
        raise InputError(f"{calibration[0]}: expected together with --precision int8, got {arguments.precision}")
    if arguments.precision == "int8":
        images_from_arguments(arguments)  # a missing folder is known before an export that takes a minute
    for flag in calibration:
        yield from (flag, str(getattr(arguments, flag[2:].replace("-", "_"))))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compares every backend with the checkpoint on PyTorch, stage by stage, on one image.",
        epilog="example: python benchmarks/compare_backends.py models/street-lite.safetensors --precision fp16 "
        "--image street.jpg",
    )
    parser.add_argument("source", type=Path, metavar="CHECKPOINT|ONNX|ENGINE")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="that an engine or ONNX file was made from; default: looked for beside it and in models/, by its sha256",
    )  # fmt: skip
    parser.add_argument("--image", type=Path, help="default: scikit-learn's china.jpg")
    parser.add_argument("--size", metavar="HxW", help="of a checkpoint's network; default: its own")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the engines that are made of a checkpoint (default: fp32)"
    )
    parser.add_argument("--task", choices=TASKS, help="of the label map; default: the model's own")
    parser.add_argument(
        "--tolerance", type=_tolerance, action="append", default=[], metavar="[NAME=]X",
        help="relative L2 of a stage; flipped=X: share of a mask's bits; relabelled=X: of the label map's pixels; may "
        "be repeated; default: what the precision allows",
    )  # fmt: skip
    parser.add_argument(
        "--fail-on", choices=tuple(COUNTED),
        help="exit code 1 where a backend diverges in any of its stages; in its results alone (class logits, mask "
        "logits, label map); or in the label map's pixels; or where it is there and cannot run",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    add_calibration_arguments(parser)
    return parser.parse_args(argv)


def _tolerance(text: str) -> tuple[str, float]:
    """A field of Tolerance and its value; relative_l2 where no name is given."""
    name, named, number = text.rpartition("=")
    names = [field.name for field in fields(Tolerance)]
    if named and name not in names:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(names)}, got {name!r}")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {number!r}")
    return name or "relative_l2", value


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    report, outcomes = compare(arguments)
    if arguments.json:
        print(json.dumps(report))
    else:
        from mask2edge.benchmarks.backends.report import lines

        print("\n".join(lines(report, outcomes)))
    return 1 if report["passed"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
