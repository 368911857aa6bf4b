"""One page from benchmarks/results: what is accurate, how fast, on what, and what was not run.

    python benchmarks/report.py                                       # artifacts/report.html
    python benchmarks/report.py --out report.html --markdown report.md

The page opens without a network. Every figure leads to its CSV row, and the row to the command that measures it again;
peers' published figures stand apart. docs/report.md says how to read it. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.benchmarks.reporting.blocks import Report, Table
from mask2edge.benchmarks.reporting.content import build_report
from mask2edge.benchmarks.reporting.html_page import html_page
from mask2edge.benchmarks.reporting.markdown_page import markdown_page
from mask2edge.benchmarks.reporting.matrix import Entry, entries_of, figures_of, not_run
from mask2edge.benchmarks.reporting.rows import Row, read_results
from mask2edge.runtime.command_line import InputError, command, whole_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
OUT = Path("artifacts/report.html")


def summary(results: dict[str, list[Row]], written: Sequence[Path]) -> dict[str, Any]:
    """The JSON object: the matrix, what was not run, and the files."""
    entries = entries_of(results)
    return {
        "files": [str(path) for path in written],
        "rows": sum(map(len, results.values())),
        "matrix": [_entry(entry) for entry in entries],
        "not_run": not_run(results, entries),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    names = ("artifact", "backbone", "size", "precision", "backend", "ops", "sha256", "state")
    found: dict[str, Any] = {name: getattr(entry, name) or None for name in names}
    found |= {name: getattr(entry, name) for name in ("network_ms", "total_ms", "memory_mb")}
    found["bytes"] = entry.bytes[0] if entry.bytes else None
    found["accuracy"] = [
        {"task": row.get("task"), "data": row.get("data"), "split": row.get("split"), "row": row.place}
        | dict(figures_of(row))
        for row in entry.accuracy
    ]
    return found | {"row": entry.latency.place if entry.latency else None}


def lines(report: Report, written: Sequence[Path]) -> list[str]:
    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    counted = f"{sum(map(len, report.results.values()))} rows, {len(tables)} tables"
    return [*map(str, written), counted]


def address_of(results: Path, page: Path) -> str:
    """Of the folder of rows, seen from a page of the project; a page elsewhere names it as the project does, since the
    way there would be one of this machine.
    """
    folder, beside = results.resolve(), page.resolve().parent
    if not (folder.is_relative_to(ROOT) and beside.is_relative_to(ROOT)):
        return "benchmarks/results"
    return Path(os.path.relpath(folder, beside)).as_posix()


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Writes one page from benchmarks/results.",
        epilog="example: python benchmarks/report.py --out report.html --markdown report.md",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE.html", help="default: %(default)s")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="the same as Markdown, without plots")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    for flag, path, suffixes in (
        ("--out", arguments.out, (".html", ".htm")),
        ("--markdown", arguments.markdown, (".md",)),
    ):
        if path is not None and path.suffix not in suffixes:
            raise InputError(f"{flag}: expected a name ending in {suffixes[0]}, got {path}")
    results = read_results(arguments.results)
    if not any(results.values()):
        raise InputError(f"{arguments.results}: expected CSV files with rows, got none; run a benchmark with --save")
    report = build_report(results, ROOT)
    pages = {arguments.out: html_page(report)}
    if arguments.markdown:
        pages[arguments.markdown] = markdown_page(report, address_of(arguments.results, arguments.markdown))
    for path, text in pages.items():
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    written = list(pages)
    print(json.dumps(summary(results, written)) if arguments.json else "\n".join(lines(report, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
