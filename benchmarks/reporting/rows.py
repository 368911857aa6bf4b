"""Rows of benchmarks/results that know where they stand, so that every figure of a report can be traced.

results = read_results(Path("benchmarks/results"))
results["peers"][0].place        # "peers.csv:2"
newest(results["peers"])         # of several rows of the same thing the last
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask2edge.benchmarks.result_kinds import KINDS
from mask2edge.runtime.command_line import InputError

PUBLISHED = "published"  # the peers' own figures: a source instead of a command


@dataclass(frozen=True)
class Row:
    file: str  # without .csv
    line: int  # of the file, the header being line 1
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        return f"{self.file}.csv:{self.line}"

    @property
    def anchor(self) -> str:
        return f"{self.file}-{self.line}"

    def get(self, column: str) -> str:
        """ "" where the file had no such column when the row was written."""
        return self.cells.get(column) or ""

    def number(self, column: str) -> float | None:
        """None where there is none. Raises InputError for something else than a number."""
        text = self.get(column)
        if not text:
            return None
        try:
            return float(text)
        except ValueError as error:
            raise InputError(f"{self.place}: {column}: expected a number, got {text!r}") from error


def counted_images(row: Row) -> str:
    """Of an accuracy row: how many images its figures are of."""
    images, whole = row.get("images"), row.get("images_in_split")
    return f"the first {images} of {whole} images" if is_of_part(row) else f"{images} images"


def counted_detections(row: Row) -> str:
    """Of an accuracy row of instances: the most that count of an image, where COCO's AP has 100."""
    return f"{row.get('detections')} detections" if row.get("detections") else ""


def is_of_part(row: Row) -> bool:
    """Whether an accuracy is of some images of its split alone."""
    return row.get("images_in_split") not in ("", row.get("images"))


def read_results(folder: Path) -> dict[str, list[Row]]:
    """Every CSV file of the folder by name, but for hidden ones: an interrupted run may leave half a file under such a
    name. Raises InputError where there is no folder or a line has other cells.
    """
    if not folder.is_dir():
        raise InputError(f"--results: expected a folder of CSV files, got {str(folder)!r}, which is not there")
    return {path.stem: _read(path) for path in sorted(folder.glob("*.csv")) if not path.name.startswith(".")}


def _read(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for cells in reader:
            if None in cells or None in cells.values():
                count = len(reader.fieldnames or ())
                raise InputError(f"{path}: line {reader.line_num}: expected {count} cells; mend the line")
            rows.append(Row(path.stem, reader.line_num, cells))
    return rows


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each thing that was measured, in the order of the file. Files of one name are things of their own
    where their checksums differ.
    """
    last = {_thing(row): row for row in rows}
    return [row for row in rows if last[_thing(row)] is row]


def newest_with(column: str, rows: Sequence[Row], like: Row) -> Row | None:
    """The last row of the same thing as `like` that has a figure in `column`."""
    found = [row for row in rows if row.number(column) is not None and _thing(row) == _thing(like)]
    return found[-1] if found else None


def _thing(row: Row) -> object:
    kind = KINDS.get(row.file)
    return row.line if kind is None else (kind.key(row.cells), row.get("sha256"))
