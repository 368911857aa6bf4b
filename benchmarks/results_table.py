"""benchmarks/results/*.csv: one row for each figure, with what it takes to measure it again.

append_row(Path("benchmarks/results/latency.csv"), ("date", "ratio"), {"date": "2026-11-22", "ratio": 0.63})
read_rows(Path("benchmarks/results/latency.csv"))     # [{"date": "2026-11-22", "ratio": "0.63"}]
recorded_command("benchmarks/latency.py", ["a.engine"])     # "python benchmarks/latency.py a.engine"

A table may grow at its end: columns that a file does not have yet are empty in its older rows. Others are refused.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError, whole_file

ROOT = Path(__file__).resolve().parents[1]


def append_row(path: Path, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Adds a row; a new file gets the columns first, and an older one those at the end that it lacks. Raises InputError
    where the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = _columns_of(path, columns)
    if found and found != list(columns):
        _write(path, columns, read_rows(path, columns))
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not found:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Every row as text, by column; none where there is no file. Those at the end of `columns` that the file does not
    have yet are empty. Raises InputError where it has other columns.
    """
    if not _columns_of(path, columns):
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows if columns is None else [{column: row.get(column) or "" for column in columns} for row in rows]


def _write(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
