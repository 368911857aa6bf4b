"""benchmarks/results/*.csv: one row for each figure, with what it takes to measure it again.

append_row(Path("benchmarks/results/latency.csv"), ("date", "ratio"), {"date": "2026-11-22", "ratio": 0.63})
read_rows(Path("benchmarks/results/latency.csv"))     # [{"date": "2026-11-22", "ratio": "0.63"}]
recorded_command("benchmarks/latency.py", ["a.engine"])     # "python benchmarks/latency.py a.engine"

A table may grow at its end: columns that a file does not have yet are empty in its older rows. Others are refused. An
interrupted run leaves a table as it was.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError, whole_file

ROOT = Path(__file__).resolve().parents[1]


def append_row(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """As append_rows, of one."""
    append_rows(path, columns, [row])


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds all rows or none, wherever the process is stopped; a new file gets the columns first, and an older one those
    at the end that it lacks. What others add meanwhile is kept. Raises InputError where the file has other columns.
    """
    added = _text(columns, list(rows)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        found = _columns_of(path, columns)
        if found == list(columns):
            before = path.read_bytes()
            before += b"" if before.endswith(b"\n") else b"\n"
        else:
            before = _text(columns, read_rows(path, columns), header=True).encode()
        with whole_file(path.resolve()) as temporary:  # a link stays one
            temporary.write_bytes(before + added)


def require_appendable(path: Path, columns: Sequence[str]) -> None:
    """Before anything is measured, whose figures would be lost: raises InputError where append_rows could not add rows
    of these columns.
    """
    read_rows(path, columns)
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: expected a file in a folder that can be written, got {error.strerror}; choose another"
        ) from error


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Every row as text, by column; none where there is no file. Those at the end of `columns` that the file does not
    have yet are empty. Raises InputError where it has other columns, or a line has more or fewer cells than they are.
    """
    if not _columns_of(path, columns):
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise InputError(f"{path}: line {reader.line_num}: expected {count} cells; mend the line or remove it")
            rows.append(row)
    return rows if columns is None else [{column: row.get(column) or "" for column in columns} for row in rows]


def _text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two that add rows at once would each put its own in the place of the same older file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def recorded_command(script: str, arguments: Sequence[str]) -> str:
    """What was typed, as a row may keep it: a path of this machine is given from the project's root, or, where it leads
    elsewhere, by its last name alone.
    """
    return shlex.join(("python", script, *(_without_machine(argument) for argument in arguments)))


def _without_machine(argument: str) -> str:
    flag, is_flag, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if not Path(value).expanduser().is_absolute() and not value.startswith("~"):
        return argument
    path = Path(os.path.abspath(Path(value).expanduser()))
    return flag + is_flag + (str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name)


def _columns_of(path: Path, expected: Sequence[str] | None) -> list[str]:
    """Of the first line; none where there is no file, or an empty one."""
    if not path.exists():
        return []
    if not path.is_file():
        raise InputError(f"{path}: expected a CSV file, got something else of that name; choose another")
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        found = next(csv.reader(file), [])
    if expected is not None and found != list(expected)[: len(found)]:
        raise InputError(f"{path}: expected the columns {', '.join(expected)}, got {', '.join(found)}; rename the file")
    return found
