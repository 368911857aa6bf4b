"""What a user chooses about the calibration of int8, and the command-line arguments for it. No onnx.

images = calibration_images(Path("camvid/train"), 32)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import find_images

METHODS = ("percentile", "min-max", "entropy")  # the first is the default
IMAGES = 32


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("int8", "the ranges of int8 are measured on images before the engine is built")
    group.add_argument("--calibration", type=Path, metavar="DIR", help="a folder of images like those it will see")
    group.add_argument(
        "--calibration-images", type=int, metavar="N", help=f"how many of them, evenly spaced (default: {IMAGES})"
    )
    group.add_argument(
        "--calibration-method", choices=METHODS, help=f"how a range follows from them (default: {METHODS[0]})"
    )


def given_calibration_arguments(arguments: argparse.Namespace) -> list[str]:
    """The flags of this group that the user gave."""
    names = ("calibration", "calibration_images", "calibration_method")
    return ["--" + name.replace("_", "-") for name in names if getattr(arguments, name) is not None]


def images_from_arguments(arguments: argparse.Namespace) -> list[Path]:
    """Raises InputError where there is no folder, or none with images."""
    count = IMAGES if arguments.calibration_images is None else arguments.calibration_images
    return calibration_images(arguments.calibration, count)


def calibration_images(folder: Path | None, count: int = IMAGES) -> list[Path]:
    """At most `count` images of a folder, evenly spaced in order of name. Raises InputError."""
    if folder is None:
        raise InputError(
            "--int8: expected --calibration DIR, got none; name a folder of images like those that the engine will see"
        )
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--calibration {folder}: expected a folder of images, got {found}; name another")
    if count < 1:
        raise InputError(f"--calibration-images: expected 1 or more, got {count}")
    try:
        files = find_images([str(folder)])
    except InputError as error:
        raise InputError(f"--calibration {error}; name another folder") from error
    step = max(1.0, len(files) / count)
    return [files[int(index * step)] for index in range(min(count, len(files)))]
