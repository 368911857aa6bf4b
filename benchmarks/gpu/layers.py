"""Step `layers`: where the time of each engine goes, and how much of it is in our plugins."""

from __future__ import annotations

from pathlib import Path

from mask2edge.benchmarks.gpu.engines import RANDOM, SHIPPED, built_engines
from mask2edge.benchmarks.gpu.rows import RowFile
from mask2edge.benchmarks.layers import layer_times
from mask2edge.export.engine_inspection import table_lines, time_shares
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.segmenter import Segmenter

LARGEST = 3  # layers that get a row of their own; layers.log has more


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    for model in (SHIPPED, RANDOM):
        engines = [engine for engine in built_engines(out, model) if engine.precision != "cpu"]
        if not engines:
            rows.failed(model, "no TensorRT engine was built")
        for engine in engines:
            what = f"{model} {engine.precision}"
            try:
                with Segmenter.load(engine.folder) as segmenter:
                    found = layer_times(segmenter, engine.folder)
            except InputError as error:
                rows.failed(what, str(error))
                continue
            print(what, *table_lines(found, most=40), sep="\n", flush=True)
            shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in time_shares(found))
            rows.measured(f"{what}, {len(found)} layers", f"{sum(row.ms or 0 for row in found):.2f} ms: {shares}")
            for row in sorted(found, key=lambda row: -(row.ms or 0))[:LARGEST]:
                rows.measured(f"{what}, {row.name[:60]}", f"{row.ms:.3f} ms, {100 * (row.share or 0):.1f}%")
