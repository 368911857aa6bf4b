"""A report as Markdown: the same tables, each line with links to its rows, and the rows' commands at the end.

markdown_page(report, "../results")      # where the CSV files are, seen from the page
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mask2edge.benchmarks.reporting.blocks import Block, Bullets, Cell, Chart, Picture, Prose, Report, Table
from mask2edge.benchmarks.reporting.commands import command_of
from mask2edge.benchmarks.reporting.rows import Row


def markdown_page(report: Report, results: str) -> str:
    """`results`: the address of the folder of CSV files, as links on the page have it."""
    lines = [f"# {report.title}", ""]
    for section in report.sections:
        lines += [f"## {section.title}", ""] if section.title else []
        for block in section.blocks:
            lines += [*_block(block, results), ""]
    return "\n".join([*lines, *_commands(report)]) + "\n"


def _block(block: Block, results: str) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _table(block, results)
    elif isinstance(block, Chart):
        yield f"{block.caption}: a plot of the HTML page. Series: {', '.join(block.legend)}."
    elif isinstance(block, Picture):
        yield f"{block.path}: {block.caption}"
    elif isinstance(block, Bullets):
        yield from (f"- {line}" for line in block.lines)
    elif isinstance(block, Prose):
        yield block.text


def _table(table: Table, results: str) -> Iterator[str]:
    traced = any(cell.rows for row in table.rows for cell in row)
    columns = [*table.columns, *(["Rows"] if traced else [])]
    yield f"{table.caption}"
    yield ""
    yield _line(columns)
    yield _line(["---"] * len(columns))
    for row in table.rows:
        links = [", ".join(_links(row, results))] if traced else []
        yield _line([*map(_text, row), *links])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '&#124;') for text in cells)} |"


def _text(cell: Cell) -> str:
    return "; ".join(f"[{part.text}]({part.address})" if part.address else part.text for part in cell.parts)


def _links(cells: Sequence[Cell], results: str) -> Iterator[str]:
    found = {row.place: row for cell in cells for row in cell.rows}
    for place, row in found.items():
        yield f"[{place}]({results}/{row.file}.csv#L{row.line})"


def _commands(report: Report) -> Iterator[str]:
    yield "## Rows and commands"
    yield ""
    yield _line(["Rows", "Command"])
    yield _line(["---", "---"])
    for name, rows in report.results.items():
        of: dict[str, list[Row]] = {}
        for row in rows:
            of.setdefault(command_of(row), []).append(row)
        for command, made in of.items():
            if command:
                yield _line([f"{name}.csv: {', '.join(str(row.line) for row in made)}", f"`{command}`"])
