"""Tables of what was measured besides whole artifacts: peers in turns, the stages of an image, ratios of parts.

list(peer_tables(results)), list(breakdown(results)), list(ratio_tables(results))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mask2edge.benchmarks.reporting.blocks import Cell, Part, Prose, Table, cell, figure
from mask2edge.benchmarks.reporting.machines import conditions, short_cpu
from mask2edge.benchmarks.reporting.matrix import OURS
from mask2edge.benchmarks.reporting.rows import Row, newest
from mask2edge.runtime.command_line import InputError

Results = Mapping[str, list[Row]]
STAGES = ("network", "preprocessing", "post-processing", "before and after the network")  # by colour
OTHER, OWN = 1, 0  # colours


@dataclass(frozen=True)
class RatioTable:
    """How a file's rows are shown: what names a row, and its figures by heading, the first with a bar."""

    caption: str
    names: tuple[str, ...]
    figures: Mapping[str, str]


RATIOS = {
    "kernels": RatioTable(
        "Custom operators on the CPU: how many times faster than the stock subgraph, in turns.",
        ("op", "case"), {"ratio": "Times faster", "fused_p50_ms": "Ours ms", "stock_p50_ms": "Stock ms"},
    ),
    "postprocessing": RatioTable(
        "Logits to masks: how many times faster than Hugging Face's, and the share of the network's time.",
        ("case", "task", "order", "size"),
        {"ratio": "Times faster", "native_p50_ms": "Ours ms", "huggingface_p50_ms": "Hugging Face ms",
         "share": "Share"},
    ),
    "pipeline": RatioTable(
        "Image file to label map: our time over torch eager's, of the same model with the reference's post-processing; "
        "the overlapping stream over a plain loop, and the share of what could overlap that does not.",
        ("engine", "mode"), {"ratio": "Ratio", "ours_p50_ms": "Ours ms", "torch_p50_ms": "torch ms",
                             "agreement": "Equal pixels", "stream_to_loop": "Stream over loop",
                             "serial_share": "Serial share"},
    ),
    "area_sweep": RatioTable(
        "The network over input sizes: our time over the stock export's; the floor is the stock graph's multiply-adds "
        "at the measured speed of a matrix product.",
        ("backbone", "size"), {"ratio": "Ratio", "ours_p50_ms": "Ours ms", "stock_p50_ms": "Stock ms",
                               "floor_ratio": "Floor"},
    ),
    "session_settings": RatioTable(
        "ONNX Runtime's settings: image to masks, over the time with those that the runtime sets.",
        ("engine", "setting"), {"total_ratio": "Ratio", "total_p50_ms": "ms", "peak_memory_mb": "Memory MB"},
    ),
    "training_cost": RatioTable(
        "Training: time and peak memory over the reference's.",
        ("what", "case", "reference"), {"memory_ratio": "Memory", "ratio": "Time", "peak_mb": "Ours MB",
                                        "reference_peak_mb": "Reference MB"},
    ),
    "int8_sensitivity": RatioTable(
        "What each part of the network costs where it alone is int8, and what it gains: pixels that get another label, "
        "mIoU beside float32's, time over float32's of the network that stands last.",
        ("model", "int8", "calibration", "timed"),
        {"labels_changed": "Labels changed", "mIoU_int8": "mIoU", "mIoU_fp32": "in fp32", "time_ratio": "Time"},
    ),
    "precision_islands": RatioTable(
        "What each fp32 island of a typed graph is worth: the error with the group in half over that with it in fp32, "
        "where it is largest.",
        ("model", "ops", "precision", "group", "where"), {"ratio": "Error in half over fp32"},
    ),
    "overfit": RatioTable(
        "Images learned by heart: that everything agrees, not how good a model is.",
        ("config", "data", "size"), {"PQ": "PQ", "SQ": "SQ", "RQ": "RQ"},
    ),
    "gate-base": RatioTable(
        "Figures of the shipped model that CI holds later commits to: labels as the checkpoint on PyTorch, and counts.",
        ("model", "precision"), {"label_agreement": "Equal labels", "nodes": "Nodes", "multiply_adds": "Multiply-adds",
                                 "bytes": "Bytes"},
    ),
}  # fmt: skip


def peer_tables(results: Results) -> Iterator[Table | Prose]:
    """One for each network, size and machine, the fastest first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in newest(results.get("peers", ())):
        key = tuple(row.get(name) for name in ("backbone", "size", "cpu", "threads"))
        groups.setdefault(key, []).append(row)
    if groups:
        yield Prose(
            "The network alone, same weights (random) and input, in turns in one run. The ratio is of medians to ONNX "
            "Runtime on the stock Hugging Face export; below 1 is faster. A peer that is missing was not there."
        )
    for (backbone, size, *_), rows in groups.items():
        ratios = {row.line: row.number("ratio") or 0.0 for row in rows}
        most = max(ratios.values()) or 1.0
        yield Table(
            f"{backbone}, {size}, {conditions(rows[0])}",
            ("Contender", "Ratio", "Quartiles", "Network ms", "Memory MB"),
            [
                [
                    cell(row.get("contender")),
                    figure(ratios[row.line], ".3f", row, [(ratios[row.line] / most, _colour(row.get("contender")))]),
                    cell(f"{row.get('ratio_q1')}–{row.get('ratio_q3')}", row) if row.get("ratio_q1") else cell(),
                    figure(row.number("network_p50_ms"), ".1f", row),
                    figure(row.number("peak_memory_mb"), ".0f", row),
                ]
                for row in sorted(rows, key=lambda row: ratios[row.line])
            ],
            ("ours", "others"),
        )


def _colour(contender: str) -> int:
    return OWN if contender.startswith(OURS) else OTHER


def breakdown(results: Results) -> Iterator[Table | Prose]:
    """Medians of the stages; of a row that has no more than network and whole, their difference as one stage."""
    rows = [row for row in newest(results.get("latency", ())) if row.number("total_p50_ms")]
    if not rows:
        yield Prose("No row of latency.csv yet: `python benchmarks/latency.py ENGINE --save`.")
        return
    most = max(row.number("total_p50_ms") or 0.0 for row in rows)
    yield Table(
        "Image to masks, median ms of each stage. Medians of stages need not add up to the median of the whole.",
        ("Engine", "Input", "CPU", "Whole ms", "Before", "Network", "After"),
        [_stages(row, most) for row in rows],
        STAGES,
    )


def _stages(row: Row, most: float) -> list[Cell]:
    before, network, after = (row.number(f"{name}_p50_ms") for name in ("preprocess", "network", "postprocess"))
    total = row.number("total_p50_ms") or 0.0
    network = network or 0.0
    if before is not None and after is not None:
        bars = [(before / most, 1), (network / most, 0), (after / most, 2)]
        parts = [figure(before, ".2f", row), figure(network, ".1f", row), figure(after, ".2f", row)]
    else:
        rest = max(total - network, 0.0)
        bars = [(network / most, 0), (rest / most, 3)]
        parts = [cell(), figure(network, ".1f", row), cell(f"{rest:.1f} with before", row)]
    where = conditions(row)
    return [cell(row.get("engine")), cell(row.get("size")), cell(where), figure(total, ".1f", row, bars), *parts]


def scenario_table(results: Results) -> Iterator[Table]:
    """What LoadGen judged each run by, and its verdict. Raises InputError for a result that is no JSON object."""
    rows = newest(results.get("scenarios", ()))
    if rows:
        yield Table(
            "MLPerf LoadGen asked, measured and judged. INVALID: the run was too short, or too much came late, and its "
            "figures prove little.",
            ("Engine", "Scenario", "Measures", "Verdict", "Result", "p50 ms", "p99 ms", "On"),
            [
                [
                    cell(row.get("engine")),
                    cell(row.get("scenario")),
                    cell(row.get("measures")),
                    cell(row.get("verdict")),
                    Cell(tuple(_loadgen_figures(row)) or cell().parts),
                    figure(row.number("latency_p50_ms"), ".1f", row),
                    figure(row.number("latency_p99_ms"), ".1f", row),
                    cell(conditions(row)),
                ]
                for row in rows
            ],
        )


def _loadgen_figures(row: Row) -> Iterator[Part]:
    try:
        found = json.loads(row.get("result") or "{}").items()
    except (ValueError, AttributeError) as error:
        raise InputError(f"{row.place}: result: expected a JSON object, got {row.get('result')!r:.60}") from error
    for name, value in found:
        if value is not None:
            yield Part(f"{name.replace('_', ' ')} {value:g}", row)


def ratio_tables(results: Results) -> Iterator[Table | Prose]:
    if any(results.get(name) for name in RATIOS):
        yield Prose("Bars reach to the largest figure of their table.")
    for name, shown in RATIOS.items():
        rows = newest(results.get(name, ()))
        if not rows:
            continue
        columns = [column for column in shown.figures if any(row.get(column) for row in rows)]
        if not columns:
            continue
        most = max((row.number(columns[0]) or 0.0 for row in rows), default=1.0) or 1.0
        yield Table(
            f"{name}.csv. {shown.caption}",
            ("What", *(shown.figures[column] for column in columns), "CPU"),
            [[cell(_name(row, shown.names)), *_figures(row, columns, most), cell(short_cpu(row))] for row in rows],
        )


def _name(row: Row, columns: Sequence[str]) -> str:
    return ", ".join(row.get(column) for column in columns if row.get(column))


def _figures(row: Row, columns: Sequence[str], most: float) -> Iterator[Cell]:
    for position, column in enumerate(columns):
        value = row.number(column)
        bars = [(value / most, OWN)] if position == 0 and value is not None else []
        yield figure(value, _form(column, value or 0.0), row, bars)


def _form(column: str, value: float) -> str:
    if column in ("nodes", "bytes", "multiply_adds"):
        return ",.0f"
    if column.endswith("_mb"):
        return ".0f"
    if column.endswith("_ms"):
        return ".1f"
    if "ratio" in column:
        return ".3f" if value < 10 else ".1f"
    return ".4f"
