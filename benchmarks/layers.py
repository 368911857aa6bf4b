"""Where an engine's time goes: its layers by share of the time, with their precision and which of them are ours.

    python benchmarks/layers.py artifacts/street-lite-fp16.engine --most 30

For TensorRT engines. Each layer is timed by itself, without a CUDA graph: the sum is more than benchmarks/latency.py
reports for the network. --json prints {"engine", "size", "sum_ms", "layers": [{"name", "kind", "precision", "ours",
"ms", "share"}, …]}.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mask2edge.benchmarks.timed_engine import noise
from mask2edge.export.engine_inspection import LAYERS_FILE, LayerRow, layer_table, table_lines
from mask2edge.runtime.command_line import InputError, command, positive_number
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import Segmenter

RUNS = 20


def layer_times(segmenter: Segmenter, folder: Path, image: Path | None = None, runs: int = RUNS) -> list[LayerRow]:
    """At the profile's best size, on `image` or noise. Raises InputError for an engine that is not TensorRT's."""
    backend = segmenter.spec.backend
    if backend != "tensorrt":
        raise InputError(f"{folder}: expected a TensorRT engine, whose layers can be timed, got one for {backend}")
    batch, height, width = segmenter.spec.profile.opt
    picture = read_image(image) if image else noise(height, width)
    pixels, _ = segmenter.prepare([picture] * batch)
    session: Any = segmenter.session
    return layer_table(_layers(folder), session.layer_times(pixels, runs))


def _layers(folder: Path) -> dict[str, Any]:
    path = folder / LAYERS_FILE
    if not path.is_file():  # not every TensorRT could list them; their names come with the times
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Lists an engine's layers by their share of the time.",
        epilog="example: python benchmarks/layers.py artifacts/street-lite-fp16.engine --image street.jpg",
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE")
    parser.add_argument("--image", type=Path, help="default: blurred noise of the engine's size")
    parser.add_argument("--runs", type=positive_number, default=RUNS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--most", type=positive_number, default=20, metavar="N", help="layers to list (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    with Segmenter.load(arguments.engine) as segmenter:
        rows = layer_times(segmenter, arguments.engine, arguments.image, arguments.runs)
        size = "x".join(map(str, segmenter.spec.profile.opt))
    if arguments.json:
        total = sum(row.ms or 0 for row in rows)
        report = {"engine": str(arguments.engine), "size": size, "sum_ms": total, "layers": list(map(asdict, rows))}
        print(json.dumps(report))
    else:
        print("\n".join(table_lines(rows, arguments.most)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
