"""benchmarks/results/*.csv: one row for each figure, with what it takes to measure it again.

append_row(Path("benchmarks/results/latency.csv"), ("date", "ratio"), {"date": "2026-11-22", "ratio": 0.63})
read_rows(Path("benchmarks/results/latency.csv"))     # [{"date": "2026-11-22", "ratio": "0.63"}]
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError


def append_row(path: Path, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Adds a row; a new file gets the columns first. Raises InputError where the file has other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text:
        found = next(csv.reader(text.splitlines()))
        if found != list(columns):
            raise InputError(
                f"{path}: expected the columns {', '.join(columns)}, got {', '.join(found)}; rename the file"
            )
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not text:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Every row as text, by column; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
