"""Two result files of the same benchmark, row by row: has anything become worse than noise explains?

    python benchmarks/gate.py benchmarks/results/gate-base.csv artifacts/gate/figures.csv
    python benchmarks/gate.py BASE.json NEW.json --tolerance 0.05 --tolerance mIoU=0.002

Files are CSV as in benchmarks/results, or what a benchmark prints with --json. Rows belong together where all but their
figures, date, commit and versions is alike; of several alike in one file the last counts. Which columns are figures,
which way is better and how much is noise stands in result_kinds.py; times are not compared. Exit code 1 where a figure
is worse, or a row or figure is missing; 0 where none is; 2 for files that cannot be compared.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2edge.benchmarks.accuracy_rows import METRICS
from mask2edge.benchmarks.result_kinds import Figure, Kind, kind_of
from mask2edge.runtime.command_line import InputError, command

Row = Mapping[str, str]


def read_result(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV or JSON file, as text. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a result file, CSV or JSON, got {error}") from error
    rows = _rows_of_json(text, path) if text.lstrip()[:1] in ("{", "[") else _rows_of_csv(text, path)
    if not rows:
        raise InputError(f"{path}: expected rows, got none; run the benchmark first")
    return rows


def _rows_of_csv(text: str, path: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(text.splitlines())
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}: line {reader.line_num}: expected {len(reader.fieldnames or ())} cells, got others"
            )
        rows.append(row)
    return rows


def _rows_of_json(text: str, path: Path) -> list[dict[str, str]]:
    """A list of rows, {"rows": [...]}, or the object that a benchmark prints."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from error
    try:
        rows = data if isinstance(data, list) else list(_rows_of_object(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected rows, or what a benchmark prints with --json, got an object of another form ({error!r})"
        ) from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected an object for each row, got something else")
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def _rows_of_object(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "rows" in data:
        yield from data["rows"]
    elif "metrics" in data:  # accuracy.py
        names = {name: Path(data[name]).name for name in ("artifact", "data")}
        of = {name: data[name] for name in ("task", "split", "images", "detections") if name in data}
        # As in accuracy.csv: a figure that no column is of would be taken for a part of what the row is of.
        yield names | of | {name: data["metrics"][name] for name in METRICS if name in data["metrics"]}
    elif "ratios" in data:
        from mask2edge.benchmarks import compare_peers

        yield from compare_peers.rows(data)
    elif "engine" in data or "engines" in data:  # latency.py
        reports = data.get("engines", [data])
        if any("scenario" in report for report in reports):
            from mask2edge.benchmarks import loadgen_report

            yield from loadgen_report.rows(data)
            return
        for report in reports:
            of = {name: report.get(name) for name in ("size", "batch", "task", "ratio")}
            of |= {"ratio_to_first": report.get("ratio_to_first", {}).get("total")}
            yield of | {"engine": Path(report["engine"]).name, "total_p50_ms": report["total_ms"]["p50"]}
    else:
        yield data


@dataclasses.dataclass
class Verdict:
    """Lines for people; what is in `worse` or `missing` fails."""

    compared: int
    worse: list[str]
    missing: list[str]
    new: list[str]

    @property
    def passed(self) -> bool:
        return not self.worse and not self.missing

    def lines(self) -> Iterator[str]:
        yield from (f"WORSE    {line}" for line in self.worse)
        yield from (f"MISSING  {line}" for line in self.missing)
        yield from (f"new      {line}" for line in self.new)
        counts = f"{len(self.worse)} worse, {len(self.missing)} missing, {len(self.new)} new"
        yield f"{self.compared} rows compared: {counts}"


def compare(kind: Kind, base: Sequence[Row], new: Sequence[Row]) -> Verdict:
    """Raises InputError where `new` lacks a column that tells rows apart, or a figure is no number."""
    columns = kind.key_columns(base[0])
    lacking = [column for column in columns if column not in new[0]]
    if lacking:
        raise InputError(f"{kind.name}: NEW has no column {lacking[0]!r}, by which the rows of BASE are told apart")
    before, after = ({tuple(row[name] for name in columns): row for row in rows} for rows in (base, new))
    label = _labels(columns, [*before, *after])
    verdict = Verdict(0, [], [], [label(key) for key in after if key not in before])
    for key, row in before.items():
        if key not in after:
            verdict.missing.append(label(key))
            continue
        verdict.compared += 1
        if kind.bound_rows(row):
            verdict.worse += [f"{label(key)}: {line}" for line in _losses(kind.figures, row, after[key])]
    return verdict


def _losses(figures: Mapping[str, Figure], base: Row, new: Row) -> Iterator[str]:
    for name, figure in figures.items():
        if not base.get(name):
            continue  # it was not measured then
        if not new.get(name):
            yield f"{name} {base[name]} -> not measured"
            continue
        before, after = _number(name, base[name]), _number(name, new[name])
        loss = figure.loss(before, after)
        if math.isnan(loss) or loss > figure.bound + 1e-12:  # NaN is worse than any figure
            shown = f"{loss:.2%}" if figure.relative else f"{loss:.5g}"
            bound = f"{figure.bound:.2%}" if figure.relative else f"{figure.bound:.5g}"
            yield f"{name} {base[name]} -> {new[name]}, {shown} worse; noise is up to {bound}"


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name}: expected a number, got {text!r}") from error


def _labels(columns: Sequence[str], keys: Sequence[tuple[str, ...]]) -> Any:
    """A function that names a row by what differs between the rows; where nothing does, by all of its key."""
    differ = [index for index in range(len(columns)) if len({key[index] for key in keys}) > 1] or range(len(columns))
    return lambda key: ", ".join(key[index] for index in differ if key[index]) or "the row"


def with_tolerances(kind: Kind, tolerances: Sequence[str]) -> Kind:
    """`0.05`: of every ratio; `mIoU=0.002`: of one column. Raises InputError."""
    figures = dict(kind.figures)
    for text in tolerances:
        name, _, number = text.rpartition("=")
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not bound >= 0:
            raise InputError(f"--tolerance: expected NUMBER or COLUMN=NUMBER, from 0, got {text!r}")
        if name and name not in figures:
            raise InputError(f"--tolerance: expected one of {', '.join(figures) or 'no column'}, got {name!r}")
        for column, figure in figures.items():
            if column == name or (not name and figure.relative):
                figures[column] = dataclasses.replace(figure, bound=bound)
    return dataclasses.replace(kind, figures=figures)


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Fails where a result is worse than an earlier one.",
        epilog="example: python benchmarks/gate.py benchmarks/results/gate-base.csv artifacts/gate/figures.csv",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="CSV or JSON")
    parser.add_argument("new", type=Path, metavar="NEW", help="of the same benchmark")
    parser.add_argument(
        "--tolerance", action="append", default=[], metavar="[COLUMN=]X", help="of one figure, or of every ratio"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    base, new = read_result(arguments.base), read_result(arguments.new)
    kind, other = kind_of(base[0], str(arguments.base)), kind_of(new[0], str(arguments.new))
    if kind.name != other.name:
        raise InputError(f"expected two files of the same benchmark, got {kind.name} and {other.name}")
    verdict = compare(with_tolerances(kind, arguments.tolerance), base, new)
    if arguments.json:
        print(json.dumps({"passed": verdict.passed} | dataclasses.asdict(verdict)))
    else:
        print("\n".join(verdict.lines()))
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
