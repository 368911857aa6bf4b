"""What an input's area costs: our fp32 engine, the stock export, and the floor, from 256² to 1024².

    python benchmarks/area_sweep.py --threads 2 --save --plot docs/images/area_sweep.svg
    python benchmarks/area_sweep.py --sizes 1024x1024 --save                     # one size more
    python benchmarks/area_sweep.py --sizes "" --plot docs/images/area_sweep.svg # the plot alone, of what was saved

The floor is the time that the network's multiply-adds, counted from the stock export, take at the rate of one large
matrix product, timed in turns with the networks: what would remain if all else cost nothing. The plot shows the newest
row of each size for this CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.compare_peers import example_pixels
from mask2edge.benchmarks.contenders import CONTENDERS, OURS, REFERENCE, check_agreement
from mask2edge.benchmarks.multiply_adds import Gemm, multiply_adds
from mask2edge.benchmarks.peers import onnxruntime_stock
from mask2edge.benchmarks.results_table import append_row, read_rows
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime.command_line import (
    InputError,
    command,
    natural_number,
    parse_size,
    positive_number,
    say,
    whole_file,
)

SIZES = "256x256,384x384,512x512,768x768,1024x1024"
RESULTS = Path(__file__).resolve().parent / "results" / "area_sweep.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "instruction_set", "threads", "versions", "backbone", "size", "runs",
    "ours_p50_ms", "stock_p50_ms", "ratio", "class_difference", "mask_difference", "gflop", "gemm_gflop_per_s",
    "floor_ms", "floor_ratio",
)  # fmt: skip


def measure(backbone: str, size: tuple[int, int], threads: int, runs: int, warmup: int) -> dict[str, Any]:
    """One size, both networks and the matrix product in turns; the columns from "backbone" on."""
    peer = onnxruntime_stock.prepare(backbone, size)
    pixels = example_pixels(size)
    ours, stock = (CONTENDERS[name].open(peer, threads) for name in (OURS, REFERENCE))
    agreement = check_agreement(CONTENDERS[REFERENCE], stock.run(pixels), ours.run(pixels))
    product = Gemm(threads)
    contenders = {
        OURS: timed(lambda: ours.run(pixels)),
        REFERENCE: timed(lambda: stock.run(pixels)),
        "gemm": timed(product.run),
    }
    times = interleave(contenders, runs, warmup=warmup)
    p50 = {name: summarize([one["ms"] for one in found])["p50"] for name, found in times.items()}
    flop = 2 * multiply_adds(onnx.load(peer.onnx), pixels.shape)
    floor = p50["gemm"] * flop / product.flop
    return {
        "backbone": backbone,
        "size": f"{size[0]}x{size[1]}",
        "runs": runs,
        "ours_p50_ms": p50[OURS],
        "stock_p50_ms": p50[REFERENCE],
        "ratio": round(p50[OURS] / p50[REFERENCE], 4),
        "class_difference": agreement["class_logits"],
        "mask_difference": agreement["mask_logits"],
        "gflop": round(flop / 1e9, 2),
        "gemm_gflop_per_s": round(product.flop / p50["gemm"] / 1e6, 1),
        "floor_ms": round(floor, 1),
        "floor_ratio": round(floor / p50[REFERENCE], 4),
    }


def saved_rows(path: Path, cpu: str, threads: int, backbone: str) -> list[dict[str, str]]:
    """The newest row of each size, by area. Raises InputError where there is none, or the file is another table."""
    wanted = {"cpu": cpu, "threads": str(threads), "backbone": backbone}
    newest = {
        row["size"]: row for row in read_rows(path, COLUMNS) if all(row[key] == value for key, value in wanted.items())
    }
    if not newest:
        raise InputError(f"{path}: expected rows of {cpu} with {threads} threads to plot, got none; add --save")
    return sorted(newest.values(), key=_area)


def _area(row: dict[str, str]) -> int:
    height, width = row["size"].split("x")
    return int(height) * int(width)


def plot(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Milliseconds over input area: stock, ours, floor; and ours as a share of stock at each point."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("--plot: matplotlib is not installed; pip install 'mask2edge[bench]'") from error
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mask2edge"  # the same rows give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    areas = [_area(row) / 1e6 for row in rows]
    lines = (
        ("stock_p50_ms", "ONNX Runtime, stock export", "#7f7f7f", "s-"),
        ("ours_p50_ms", "mask2edge fp32, and its share of the stock export's time", "#1f77b4", "o-"),
        ("floor_ms", "floor: its multiply-adds at sgemm's rate", "#2ca02c", "^--"),
    )
    for column, label, color, style in lines:
        axes.plot(areas, [float(row[column]) for row in rows], style, color=color, label=label, markersize=5)
    for area, row in zip(areas, rows, strict=True):
        place = area, float(row["ours_p50_ms"])
        axes.annotate(
            f"{float(row['ratio']):.2f}", place, (4, -10), textcoords="offset points", color="#1f77b4", fontsize=8
        )
    first = rows[0]
    axes.set(
        xlabel="input, by area", ylabel="network, ms (median)", xlim=(0, None), ylim=(0, None),
        title=f"Mask2Former {first['backbone'].upper()}, batch 1, {first['threads']} threads, {first['cpu']}",
    )  # fmt: skip
    axes.title.set_fontsize(9)
    axes.set_xticks(areas, [row["size"].replace("x", "×") for row in rows], rotation=30, ha="right", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{'size':<12}{'ours ms':>10}{'stock ms':>10}{'ratio':>8}{'GFLOP':>9}{'floor ms':>10}{'floor/stock':>13}"
    for row in rows:
        yield (
            f"{row['size']:<12}{row['ours_p50_ms']:>10.1f}{row['stock_p50_ms']:>10.1f}{row['ratio']:>8.3f}"
            f"{row['gflop']:>9.1f}{row['floor_ms']:>10.1f}{row['floor_ratio']:>13.3f}"
        )


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Times our engine and the stock export over input sizes, with the floor.",
        epilog="example: python benchmarks/area_sweep.py --threads 2 --save --plot docs/images/area_sweep.svg",
    )
    parser.add_argument("--sizes", default=SIZES, metavar="HxW,…", help="default: %(default)s")
    parser.add_argument("--backbone", choices=onnxruntime_stock.BACKBONES, default="r50", help="default: %(default)s")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="of each; default: the number of cores")
    parser.add_argument("--runs", type=positive_number, default=9, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=natural_number, default=2, metavar="N", help="runs before (default: %(default)s)"
    )
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an .svg or .png of the rows that are saved")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    if arguments.plot and arguments.plot.suffix not in (".svg", ".png"):
        raise InputError(f"--plot: expected a name ending in .svg or .png, got {arguments.plot}")
    sizes = [parse_size(text.strip()) for text in arguments.sizes.split(",") if text.strip()]
    described = machine.describe()
    threads = arguments.threads or described["cores"]
    rows = []
    for size in sizes:
        say(f"{size[0]}x{size[1]} …")
        rows.append(measure(arguments.backbone, size, threads, arguments.runs, arguments.warmup))
        if arguments.save:
            row = {"date": machine.today(), "commit": machine.commit(), "threads": threads}
            row |= {"machine": described["machine"], "cpu": described["cpu"]}
            row["instruction_set"] = " ".join(machine.instruction_set())
            row["versions"] = " ".join(f"{name}={version}" for name, version in described["versions"].items())
            append_row(RESULTS, COLUMNS, row | rows[-1])
    if arguments.plot:
        plot(saved_rows(RESULTS, described["cpu"], threads, arguments.backbone), arguments.plot)
        say(f"wrote {arguments.plot}")
    if arguments.json:
        print(json.dumps({"sizes": rows, "threads": threads, "machine": described}))
    elif rows:
        print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
