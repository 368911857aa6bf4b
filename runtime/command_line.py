"""What the commands of all folders share: one line for a user's mistake, artifacts that are whole or absent, sizes.

    @command
    def main(argv=None) -> int: ...

Standard library only, like `spec`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

EXIT_BAD_INPUT, EXIT_REFUSED = 2, 1
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class InputError(ValueError):
    """The user's input is at fault. The message says what was expected, what was found, and what to do."""


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """Turns an InputError into one line on stderr and exit code 2, Ctrl-C into 130, what the machine refuses (a full
    disk, a folder that may not be written) into one line and 1. Other errors are bugs."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # results name files, whose names need not be UTF-8
        try:
            return main(argv)
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
            return EXIT_REFUSED
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return wrapped


def say(text: str) -> None:
    """Progress goes to stderr; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renames it to `path` on success, removes it on failure.

    Raises InputError where `path` is there and is no plain file (a folder, a device).
    """
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: expected the name of a file to write, got something else of that name; choose another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; an artifact has the usual rights
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; it takes the place of `path` on success, and is removed on failure.

    Raises InputError where `path` is there and is no folder.
    """
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path}: expected the name of a folder to write, got something else of that name; choose another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def parse_size(text: str) -> tuple[int, int]:
    """`512x1024` -> (512, 1024), height first. Raises InputError."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"--size: expected HEIGHTxWIDTH such as 512x1024, got {text!r}")
    height, width = int(match[1]), int(match[2])
    if not height or not width or height % 32 or width % 32:
        raise InputError(f"--size: expected multiples of 32, got {text}; use {_round32(height)}x{_round32(width)}")
    return height, width


def positive_number(text: str) -> int:
    """The type of a parser's argument: argparse reports its error in one line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def natural_number(text: str) -> int:
    """As `positive_number`, from 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """As `positive_number`, with decimals: seconds, rates."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _round32(length: int) -> int:
    return max(32, (length + 31) // 32 * 32)
