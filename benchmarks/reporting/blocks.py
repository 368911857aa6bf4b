"""What a report consists of, before it is HTML or Markdown.

Table("Peers", ("Contender", "Ratio"), [[cell("mask2edge-fp32"), cell("0.464", row, bars=((0.3, 0),))]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mask2edge.benchmarks.reporting.rows import Row


@dataclass(frozen=True)
class Part:
    text: str
    row: Row | None = None  # where a figure comes from
    address: str = ""  # of a source on the web, for published figures
    code: bool = False


@dataclass(frozen=True)
class Cell:
    parts: tuple[Part, ...]  # one below the other
    bars: tuple[tuple[float, int], ...] = ()  # (share of the width, colour), side by side under the text

    @property
    def text(self) -> str:
        return "; ".join(part.text for part in self.parts)

    @property
    def rows(self) -> list[Row]:
        return [part.row for part in self.parts if part.row is not None]


def cell(
    text: str = "–", row: Row | None = None, *, bars: Sequence[tuple[float, int]] = (), address: str = "",
    code: bool = False,
) -> Cell:  # fmt: skip
    return Cell((Part(text or "–", row, address, code),), tuple(bars))


def figure(value: float | None, form: str, row: Row | None, bars: Sequence[tuple[float, int]] = ()) -> Cell:
    """A number as `form` writes it, linked to its row; a dash where there is none."""
    return cell() if value is None else cell(format(value, form), row, bars=bars)


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]  # the first cell of each names its row
    legend: tuple[str, ...] = ()  # of the bars' colours


@dataclass(frozen=True)
class Chart:
    svg: str
    caption: str
    legend: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    path: str  # from the project's root
    data: bytes
    mime: str
    caption: str
    description: str


@dataclass(frozen=True)
class Prose:
    text: str


@dataclass(frozen=True)
class Bullets:
    lines: tuple[str, ...]


Block = Table | Chart | Picture | Prose | Bullets


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    title: str
    sections: list[Section]
    results: dict[str, list[Row]]  # every row, for the end of the report
