"""A report as one HTML file that needs nothing else: no script, no network, its pictures inside.

Path("report.html").write_text(html_page(report), encoding="utf-8")

Every figure is a link to its row, which stands at the end of the page beside the command that makes it again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from mask2edge.benchmarks.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Chart,
    Part,
    Picture,
    Prose,
    Report,
    Section,
    Table,
)
from mask2edge.benchmarks.reporting.commands import command_of
from mask2edge.benchmarks.reporting.rows import Row
from mask2edge.benchmarks.result_kinds import KINDS

STYLE = Path(__file__).with_name("report.css")
# The browser itself refuses whatever this page would load.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
OTHER_TITLES = {"published": "The peers' published figures", "gate-accuracy": "What CI holds the accuracy to"}
NUMBER = re.compile(r"[-+]?[\d.,]+(e-?\d+)?%?$")  # aligned to the right


def html_page(report: Report) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(report.title)}</title>"
    yield f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>"
    yield f"<header>\n<h1>{escape(report.title)}</h1>"
    titled = [section for section in report.sections if section.title]
    links = [(section.anchor, section.title) for section in titled] + [("rows", "Rows and commands")]
    listed = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in links)
    yield f'<nav aria-label="Sections"><ul>{listed}</ul></nav>\n</header>\n<main>'
    for section in report.sections:
        yield from _section(section)
    yield from _rows(report)
    yield "</main>\n</body>\n</html>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{section.anchor}">'
    if section.title:
        yield f"<h2>{escape(section.title)}</h2>"
    blocks = list(section.blocks)
    for position, block in enumerate(blocks):
        if isinstance(block, Chart):  # plots lie beside each other where there is room
            if position == 0 or not isinstance(blocks[position - 1], Chart):
                yield '<div class="plots">'
            yield from _chart(block)
            if position == len(blocks) - 1 or not isinstance(blocks[position + 1], Chart):
                yield "</div>"
        else:
            yield from _block(block)
    yield "</section>"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Picture):
        data = base64.b64encode(block.data).decode("ascii")
        yield f'<figure><img src="data:{block.mime};base64,{data}" alt="{escape(block.description, quote=True)}">'
        yield f"<figcaption>{_text(block.caption)}</figcaption></figure>"
    elif isinstance(block, Bullets):
        yield "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in block.lines) + "</ul>"
    elif isinstance(block, Prose):
        yield f"<p>{_text(block.text)}</p>"


def _chart(chart: Chart) -> Iterator[str]:
    yield f"<figure>\n<figcaption>{escape(chart.caption)}</figcaption>\n{chart.svg}"
    yield f"{_legend(chart.legend)}</figure>"


def _legend(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = "".join(f'<li><span class="swatch c{i % 4}"></span>{escape(name)}</li>' for i, name in enumerate(names))
    return f'<ul class="legend">{listed}</ul>'


def _table(table: Table) -> Iterator[str]:
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption[:80], quote=True)}">'
    yield f"<table>\n<caption><span>{_text(table.caption)}</span>{_legend(table.legend)}</caption>"
    kinds = [_kind(column) for column in zip(*table.rows, strict=True)]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True)
    )
    yield f"<thead><tr>{heads}</tr></thead>\n<tbody>"
    for name, *cells in table.rows:
        data = "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
        yield f'<tr><th scope="row">{_cell(name)}</th>{data}</tr>'
    yield "</tbody></table></div>"


def _kind(column: Sequence[Cell]) -> str:
    """Numbers to the right, with their heading and the dashes between them."""
    texts = {cell.text for cell in column} - {"–"}
    return ' class="number"' if texts and all(map(NUMBER.match, texts)) else ""


def _cell(cell: Cell) -> str:
    text = "<br>".join(map(_part, cell.parts))
    if not cell.bars:
        return text
    bars = "".join(f'<i class="c{colour}" style="width:{100 * share:.1f}%"></i>' for share, colour in cell.bars)
    return f'{text}<span class="bar" aria-hidden="true">{bars}</span>'


def _part(part: Part) -> str:
    text = f"<code>{escape(part.text)}</code>" if part.code else escape(part.text)
    if part.row is not None:
        return f'<a class="figure" href="#{part.row.anchor}" title="{part.row.place}">{text}</a>'
    return f'<a href="{escape(part.address, quote=True)}">{text}</a>' if part.address else text


def _rows(report: Report) -> Iterator[str]:
    yield '<section id="rows">\n<h2>Rows and commands</h2>'
    yield "<p>Each file of benchmarks/results, line by line; a figure above leads to its line here.</p>"
    for name, rows in report.results.items():
        if rows:
            title = KINDS[name].title if name in KINDS else OTHER_TITLES.get(name, "rows of another kind")
            yield f"<details>\n<summary>{name}.csv: {escape(title)}, {len(rows)} rows</summary>"
            yield from _raw_table(rows)
            yield "</details>"
    yield "</section>"


def _raw_table(rows: Sequence[Row]) -> Iterator[str]:
    columns = [column for column in rows[0].cells if column != "command" and any(row.get(column) for row in rows)]
    commands = any(command_of(row) for row in rows)
    heads = ["Row", *(["Command"] if commands else []), *columns]
    yield f'<div class="scroll raw" role="region" tabindex="0" aria-label="{rows[0].file}.csv"><table>'
    yield f'<caption class="hidden">{rows[0].file}.csv</caption>'
    yield "<thead><tr>" + "".join(f'<th scope="col">{escape(head)}</th>' for head in heads) + "</tr></thead>\n<tbody>"
    for row in rows:
        command = f'<td class="long"><code>{_words(command_of(row))}</code></td>' if commands else ""
        cells = "".join(_raw_cell(row.get(column)) for column in columns)
        yield f'<tr id="{row.anchor}"><th scope="row">{row.place}</th>{command}{cells}</tr>'
    yield "</tbody></table></div>"


def _words(command: str) -> str:
    """Lines break between words alone: a browser takes the hyphens of a flag for places to break at."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))


def _raw_cell(text: str) -> str:
    if text.startswith("https://"):
        return f'<td class="long"><a href="{escape(text, quote=True)}">{escape(text)}</a></td>'
    kind = "long" if len(text) > 40 else "number" if NUMBER.match(text) else ""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _text(text: str) -> str:
    """Prose, with `code` between backticks."""
    parts = text.split("`")
    return "".join(f"<code>{escape(part)}</code>" if i % 2 else escape(part) for i, part in enumerate(parts))
