"""Which machines and package versions the rows of a report are of.

machine_table(results)
conditions(row)      # "Intel Xeon @ 2.80GHz, 2 threads"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mask2edge.benchmarks.reporting.blocks import Table, cell
from mask2edge.benchmarks.reporting.rows import PUBLISHED, Row

# "onnxruntime=1.32.0 numpy=2.4.6"; in some files "onnxruntime 1.32.0; numpy 2.4.6"
VERSION = re.compile(r"([\w.-]+)[= ]([\w.+-]+)")


def machine_table(results: Mapping[str, Sequence[Row]]) -> Table:
    """A line for each CPU, the rows that name none in one of their own."""
    groups: dict[str, list[Row]] = {}
    for name, rows in results.items():
        for row in rows if name != PUBLISHED else ():
            groups.setdefault(row.get("cpu"), []).append(row)
    return Table(
        "The machines that rows were measured on. Their versions, where rows differ, are all named.",
        ("CPU", "Machine", "Instructions", "Threads", "Versions", "Rows", "Dates"),
        [
            [
                cell(cpu or "not recorded"),
                cell(_values(rows, "machine")),
                cell(max((row.get("instruction_set") for row in rows), key=len)),
                cell(_values(rows, "threads")),
                cell(_versions(rows)),
                cell(", ".join(f"{count} {name}" for name, count in _counts(rows).items())),
                cell(_span(rows)),
            ]
            for cpu, rows in sorted(groups.items(), reverse=True)
        ],
    )


def short_cpu(row: Row) -> str:
    """The CPU's name without what every name of its maker has."""
    return " ".join(re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", row.get("cpu")).split())


def conditions(row: Row) -> str:
    """CPU and threads; batch and mode, where they are not one image after the other; the task whose masks were made."""
    threads, batch, mode, cores, task = (row.get(name) for name in ("threads", "batch", "mode", "cores", "task"))
    count = f"{threads} threads{f' of {cores} cores' if threads == 'default' and cores else ''}"
    parts = [short_cpu(row), threads and count, batch not in ("", "1") and f"batch {batch}"]
    return ", ".join(filter(None, (*parts, mode != "in turns" and mode, task)))


def _values(rows: Sequence[Row], column: str) -> str:
    return ", ".join(sorted({row.get(column) for row in rows} - {""}))


def _versions(rows: Sequence[Row]) -> str:
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, version in VERSION.findall(row.get("versions")):
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(found.items()))


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.file] = counts.get(row.file, 0) + 1
    return counts


def _span(rows: Sequence[Row]) -> str:
    dates = sorted({row.get("date") for row in rows} - {""})
    return " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
