"""The course of a training run as a picture, for its model card: losses, and the validations' figures.

    python benchmarks/training_curves.py artifacts/street-lite --out docs/images/street-lite-curves.svg

Reads metrics.jsonl. The loss is drawn as it was logged and as its running median; the figures are those of every
validation that lie between 0 and 1, by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError, command, say, whole_file
from mask2edge.train.run_folder import METRICS_FILE, read_metrics

FIGURES = ("PQ", "PQ_things", "AP", "AP50", "mIoU", "pixel_accuracy")  # those of them that a run has
WINDOW = 9  # logged rows of the running median


def running_median(values: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """float64 [n]: of the `window` values around each, fewer at the ends."""
    half = window // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def plot(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Two panels over the steps. Raises InputError without matplotlib, or where nothing was logged."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("matplotlib is not installed; pip install 'mask2edge[bench]'") from error
    steps = [row for row in rows if row["kind"] == "train"]
    validations = [row for row in rows if row["kind"] == "validation"]
    if not steps:
        raise InputError(f"{title}: expected logged steps, got none; the run has just begun")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mask2edge"  # the same rows give the same file
    from matplotlib import pyplot

    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    at, loss = [row["step"] for row in steps], [row["loss"] for row in steps]
    losses.plot(at, loss, color="#c6dbef", linewidth=0.8, label="logged")
    losses.plot(at, running_median(loss), color="#1f77b4", label=f"median of {WINDOW} rows")
    losses.set(xlabel="step", title=f"{title}: loss, all predictions", ylim=(0, None))
    for name in FIGURES:
        found = [(row["step"], row[name]) for row in validations if name in row]
        if found:
            scores.plot(*zip(*found, strict=True), "o-", markersize=4, label=name.replace("_", " "))
    scores.set(xlabel="step", title="validation", xlim=(0, at[-1]))
    for axes in (losses, scores):
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Draws the losses and validations of a training run.",
        epilog="example: python benchmarks/training_curves.py artifacts/street-lite --out curves.svg",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that train.py wrote to (--out)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="an .svg or .png")
    arguments = parser.parse_args(argv)
    if arguments.out.suffix not in (".svg", ".png"):
        raise InputError(f"--out: expected a name ending in .svg or .png, got {arguments.out}")
    if not (arguments.run / METRICS_FILE).is_file():
        raise InputError(f"{arguments.run}: expected the folder of a training run, found no {METRICS_FILE} in it")
    plot(list(read_metrics(arguments.run / METRICS_FILE)), arguments.run.name, arguments.out)
    say(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
