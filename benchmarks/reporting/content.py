"""The sections of a report, in order, from the rows of benchmarks/results.

report = build_report(read_results(Path("benchmarks/results")), Path("."))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.reporting.blocks import (
    Bullets,
    Cell,
    Chart,
    Part,
    Picture,
    Prose,
    Report,
    Section,
    Table,
    cell,
    figure,
)
from mask2edge.benchmarks.reporting.charts import Point, scatter
from mask2edge.benchmarks.reporting.machines import conditions, machine_table, short_cpu
from mask2edge.benchmarks.reporting.matrix import (
    APART,
    WHOLE,
    Entry,
    coverage,
    entries_of,
    figures_of,
    not_run,
)
from mask2edge.benchmarks.reporting.measured import breakdown, peer_tables, ratio_tables, scenario_table
from mask2edge.benchmarks.reporting.rows import PUBLISHED, Row, counted_detections, counted_images, is_of_part
from mask2edge.export.backends import HALF_STORAGE, PRECISIONS
from mask2edge.train.evaluation.task_evaluation import HEADLINE

Results = Mapping[str, list[Row]]

EXAMPLES = {  # pictures of the project: caption, and what is seen for those who do not see it
    "docs/demo.jpg": (
        "`make demo`: a photograph, its masks and the labels, from the engine of street-lite. Photograph: "
        "danielbuechele, CC BY 2.0, from scikit-learn's sample images.",
        "A photograph of a temple beside the same photograph with its segments coloured by class, and a key of colours",
    ),
    "docs/images/nuclei-lite.jpg": (
        "Two validation images of DSB2018, each beside its masks by nuclei-lite. Images: BBBC038, CC0.",
        "Two micrographs of nuclei, one dark and one light, each beside the same image with every nucleus in a colour",
    ),
}  # fmt: skip


def build_report(results: Results, root: Path) -> Report:
    """`root`: the project's, for the pictures. Raises InputError for a figure that is no number."""
    entries = entries_of(results)
    sections = [
        Section("matrix", "Backbone, precision, backend", list(_matrix(entries))),
        Section("plot", "Accuracy against latency", list(_plots(entries, results))),
        Section("peers", "Beside the peers, measured here", list(peer_tables(results))),
        Section("stages", "Where the time goes", list(breakdown(results))),
        Section("load", "Under load, by MLPerf LoadGen", list(scenario_table(results))),
        Section("ratios", "Other measurements", list(ratio_tables(results))),
        Section("examples", "Examples", list(_examples(root))),
        Section("published", "The peers' published figures: not measured here", list(_published(results))),
        Section("machines", "Machines and versions", [machine_table(results)]),
        Section("not-run", "What was not run", list(_not_run(results, entries))),
    ]
    kept = [section for section in sections if section.blocks]
    return Report("mask2edge: accuracy and latency", [_about(results), *kept], dict(results))


def _about(results: Results) -> Section:
    measured = [row for name, rows in results.items() if name != PUBLISHED for row in rows]
    dates = sorted(row.get("date") for row in measured if row.get("date"))
    span = f"measured from {dates[0]} to {dates[-1]}" if dates else "none measured yet"
    commit = machine.commit()
    text = (
        f"{len(measured)} rows of benchmarks/results, {span}; written by benchmarks/report.py"
        f"{f' of commit {commit}' if commit else ''}. Every figure leads to the row that it is from, and there stands "
        "the command that measures it again. Of several rows of the same thing the newest is shown. A commit with + "
        "had changes that were not committed."
    )
    return Section("about", "", [Prose(text)])


def _matrix(entries: Sequence[Entry]) -> Iterator[Table | Prose]:
    if not entries:
        yield Prose("No row of accuracy.csv, latency.csv or peers.csv yet.")
        return
    yield Table(
        "Each line is one file on one machine: accuracy and time stand together only where both were measured on the "
        f"file of that checksum. fp16 of onnxruntime is {HALF_STORAGE}. Times are medians.",
        ("Backbone", "Input", "Precision", "Backend", "Accuracy", "Network ms", "Image to masks ms", "Memory MB",
         "File MB", "On", "File, measured"),
        [_matrix_row(entry) for entry in entries],
    )  # fmt: skip
    columns = [(backend, precision) for backend, precisions in PRECISIONS.items() for precision in precisions]
    cells = coverage(entries)
    signs = {"": "–", WHOLE: "both", APART: "apart"}
    yield Table(
        "What there is of each combination that can be built: both figures of one file, both but of files apart, one "
        "of them, or nothing (–).",
        ("Backbone", *(f"{backend} {precision}" for backend, precision in columns)),
        [
            [cell(backbone), *(_state(cells[(backbone, *column)], signs) for column in columns)]
            for backbone in dict.fromkeys(key[0] for key in cells)
        ],
    )


def _state(state: str, signs: Mapping[str, str]) -> Cell:
    return cell(signs.get(state, state))


def _matrix_row(entry: Entry) -> list[Cell]:
    accuracy = [part for row in entry.accuracy for part in _accuracy(row, entry.latency)]
    why = entry.weights or "not measured"
    size = entry.bytes
    names = [Part(entry.artifact or "–")]
    if entry.sha256:
        names.append(Part(entry.sha256[:12], code=True))
    elif not entry.weights:
        names.append(Part("no checksum in its row"))
    dates = {row.get("date") for row in (*entry.accuracy, entry.latency) if row is not None}
    names += [Part(date) for date in sorted(dates - {""})]
    return [
        cell(entry.backbone or "not recorded"),
        Cell(tuple(map(Part, filter(None, (entry.size or "–", _timed_at(entry)))))),
        Cell(tuple(map(Part, filter(None, (entry.precision, entry.calibration))))),
        cell(f"{entry.backend or 'not recorded'}{f', {entry.ops} ops' if entry.ops else ''}"),
        Cell(tuple(accuracy)) if accuracy else cell(why),
        figure(entry.network_ms, ".1f", entry.latency),
        figure(entry.total_ms, ".1f", entry.latency),
        figure(entry.memory_mb, ".0f", entry.memory),
        figure(size[0] / 1e6, ".1f", size[1]) if size else cell(),
        cell(conditions(entry.latency) if entry.latency else ""),
        Cell(tuple(names)),
    ]


def _timed_at(entry: Entry) -> str:
    return f"timed at {entry.timed_size}" if entry.timed_size not in ("", entry.size) else ""


def _accuracy(row: Row, latency: Row | None) -> Iterator[Part]:
    """The task's figures, and of what; the CPU where the time is another's: int8 is not the same on every one."""
    for name, value in figures_of(row):
        yield Part(f"{name.replace('_', ' ')} {value:.4f}", row)
    elsewhere = latency is not None and row.get("cpu") != latency.get("cpu")
    parts = [f"{row.get('data')} {row.get('split')}", counted_images(row), counted_detections(row)]
    yield Part(", ".join(filter(None, [*parts, elsewhere and f"on {short_cpu(row)}"])))


def _plots(entries: Sequence[Entry], results: Results) -> Iterator[Prose | Chart]:
    yield Prose(
        "Times are of different machines and accuracies of different data, so that each plot has one of each: compare "
        "within a plot, never across."
    )
    panels = _own_panels(entries)
    if not panels:
        yield Prose(
            "Ours: no file has both an accuracy and a time of image to masks yet. `python benchmarks/accuracy.py "
            "ENGINE --task T --data DIR --save`, then `python benchmarks/latency.py ENGINE --save` on the same engine."
        )
    for (metric, data, where), points in panels.items():
        title = f"Measured here: {metric} on {data}, {where}"
        yield _chart(points, "image to masks, ms", metric, title, published=False)
    for (metric, hardware), points in _published_panels(results).items():
        title = f"Published, not measured here: {metric} on COCO val2017, {hardware}"
        yield _chart(points, "published ms", metric, title, published=True)


def _chart(points: Sequence[Point], x_label: str, metric: str, title: str, published: bool) -> Chart:
    series = tuple(dict.fromkeys(point.series for point in points))
    return Chart(scatter(points, x_label, metric, title, published), title, series)


def _own_panels(entries: Sequence[Entry]) -> dict[tuple[str, str, str], list[Point]]:
    panels: dict[tuple[str, str, str], list[Point]] = {}
    for entry in entries:
        if entry.latency is None or entry.total_ms is None:
            continue
        for row in entry.accuracy:
            metric = HEADLINE.get(row.get("task"), "")
            value = row.number(metric)
            if value is not None:
                where = conditions(entry.latency)
                series = f"{entry.backbone or entry.artifact} {entry.timed_size or entry.size} {entry.backend}"
                point = Point(entry.total_ms, value, entry.precision, series, entry.latency.anchor)
                # Figures of a part of a split are not those of the whole, nor are those of other numbers of detections,
                # and have a plot of their own.
                part = is_of_part(row) and counted_images(row)
                data = ", ".join(filter(None, (f"{row.get('data')} {row.get('split')}", part, counted_detections(row))))
                panels.setdefault((metric, data, where), []).append(point)
    return panels


def _published_panels(results: Results) -> dict[tuple[str, str], list[Point]]:
    """Of those with a time; where frames per second were published, 1000 divided by them."""
    panels: dict[tuple[str, str], list[Point]] = {}
    for row in results.get(PUBLISHED, ()):
        milliseconds, fps, value = row.number("latency_ms"), row.number("fps"), row.number("value")
        if milliseconds is None and fps:
            milliseconds = 1000 / fps
        if milliseconds is not None and value is not None:
            hardware, _, how = row.get("hardware").partition("; ")
            point = Point(milliseconds, value, row.get("size").split(" ")[0], f"{row.get('peer')} ({how})", row.anchor)
            panels.setdefault((row.get("metric"), hardware), []).append(point)
    return panels


def _published(results: Results) -> Iterator[Table]:
    rows = results.get(PUBLISHED, [])
    if rows:
        yield Table(
            "As their authors published them, on their hardware and software, on COCO val2017: not measured here.",
            ("Peer", "Size", "Figure", "Speed", "On", "Input", "Source"),
            [
                [
                    cell(row.get("peer")),
                    cell(row.get("size")),
                    cell(f"{row.get('metric')} {row.get('value')}", row),
                    cell(_speed(row), row if _speed(row) else None),
                    cell(row.get("hardware")),
                    cell(row.get("input")),
                    cell(row.get("source"), address=row.get("url")),
                ]
                for row in rows
            ],
        )


def _speed(row: Row) -> str:
    if row.get("latency_ms"):
        return f"{row.get('latency_ms')} ms"
    return f"{row.get('fps')} images/s" if row.get("fps") else ""


def _examples(root: Path) -> Iterator[Picture]:
    for path, (caption, description) in EXAMPLES.items():
        if (root / path).is_file():
            yield Picture(path, (root / path).read_bytes(), "image/jpeg", caption, description)


def _not_run(results: Results, entries: Sequence[Entry]) -> Iterator[Prose | Bullets]:
    lines = not_run(results, entries)
    yield Prose("Found by holding what can be built against the rows that there are.")
    yield Bullets(
        tuple(lines) if lines else ("Nothing: every combination has an accuracy and a time of the same file.",)
    )
