"""What a training step costs: ours against Hugging Face's with its own loss, and the loss on points against full masks.

    python benchmarks/training_cost.py --case r50-small --threads 2 --save
    python benchmarks/training_cost.py --loss --crop 1024 1024 --targets 30 --json

A step is forward, loss, backward, clipped update, on the same random batch; both sides take turns in one process, and
"ratio" is the ratio of median times. Peak memory is a fresh process's for each, over three steps. With --loss: peak
memory of the loss alone, forward and backward, above what its inputs take, on random predictions; "masks" matches on
all pixels of the mask logits and takes the losses on all pixels of the crop. The gradients of the predictions are part
of both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.peak_memory import peak_of_this_process_mb
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime.command_line import InputError, command, positive_number

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training_cost.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "what", "case", "batch", "crop", "targets", "points",
    "contender", "reference", "steps", "seconds_p50", "reference_seconds_p50", "ratio", "peak_mb",
    "reference_peak_mb", "memory_ratio",
)  # fmt: skip
CASE_NAMES = ("r50", "swin-t", "r50-small")
QUERIES, CLASSES, PREDICTIONS = 100, 133, 10  # of the loss alone: the paper's
STRIDE = 4  # of mask logits
STEPS_OF_PEAK = 3
COARSEST = 32  # the stride that a crop is a multiple of
OF_A_STEP: dict[str, Any] = {"case": "r50-small", "steps": 9}  # the defaults of either mode's flags
OF_THE_LOSS: dict[str, Any] = {"crop": [1024, 1024], "targets": 30, "points": 12544}


def step_cost(case: str, steps: int, threads: int) -> dict[str, Any]:
    """Times in one process, in turns; then each side's peak memory. Raises InputError without transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError("transformers is not installed; pip install 'mask2edge[bench]'")
    import torch

    from mask2edge.benchmarks.training_contenders import CASES, CONTENDERS

    torch.set_num_threads(threads)
    network = CASES[case]
    times = interleave({side: timed(make(network)) for side, make in CONTENDERS.items()}, runs=steps, warmup=1)
    ours, theirs = (summarize([each["ms"] for each in times[side]])["p50"] / 1000 for side in CONTENDERS)
    peak, reference_peak = (in_fresh_process("step", case, side, threads) for side in CONTENDERS)
    return {
        "what": "step", "case": case, "batch": network.batch, "crop": f"{network.crop[0]}x{network.crop[1]}",
        "targets": network.targets, "points": network.points, "contender": "ours", "reference": "huggingface",
        "steps": steps, "seconds_p50": round(ours, 4), "reference_seconds_p50": round(theirs, 4),
        "ratio": round(ours / theirs, 3), "peak_mb": round(peak), "reference_peak_mb": round(reference_peak),
        "memory_ratio": round(peak / reference_peak, 3),
    }  # fmt: skip


def loss_cost(crop: Sequence[int], targets: int, points: int, threads: int) -> dict[str, Any]:
    """Peak memory of the loss alone, on points and on masks, each in a fresh process."""
    sizes = (str(crop[0]), str(crop[1]), str(targets), str(points))
    peak, masks_peak = (in_fresh_process("loss", place, *sizes, threads) for place in ("points", "masks"))
    return {
        "what": "loss", "case": f"{QUERIES} queries, {PREDICTIONS} predictions", "batch": 1,
        "crop": f"{crop[0]}x{crop[1]}", "targets": targets, "points": points, "contender": "points",
        "reference": "masks", "peak_mb": round(peak), "reference_peak_mb": round(masks_peak),
        "memory_ratio": round(peak / masks_peak, 3),
    }  # fmt: skip


def in_fresh_process(*arguments: object) -> float:
    """Peak in MB. Raises InputError with the process's last line where it failed (of memory, for example)."""
    command_line = [sys.executable, "-m", "mask2edge.benchmarks.training_cost", "--measure", *map(str, arguments)]
    done = subprocess.run(command_line, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{' '.join(map(str, arguments))}: its process ended: {lines[-1]}")
    return float(done.stdout.split()[-1])


def measure_step(name: str, side: str, threads: str) -> float:
    """Peak of the process over some steps, everything included."""
    import torch
    import transformers  # noqa: F401  # part of both sides' process

    from mask2edge.benchmarks.training_contenders import CASES, CONTENDERS

    torch.set_num_threads(int(threads))
    step = CONTENDERS[side](CASES[name])
    for _ in range(STEPS_OF_PEAK):
        step()
    return peak_of_this_process_mb()


def measure_loss(place: str, height: str, width: str, targets: str, points: str, threads: str) -> float:
    """Peak above what predictions and targets take."""
    import torch

    from mask2edge.benchmarks.training_contenders import random_targets
    from mask2edge.train.loss import SetCriterion

    torch.set_num_threads(int(threads))
    size = (int(height), int(width))
    generator = torch.Generator().manual_seed(0)
    logits = (1, QUERIES, size[0] // STRIDE, size[1] // STRIDE)
    predictions = [
        {
            "class_logits": torch.randn(1, QUERIES, CLASSES + 1, generator=generator).requires_grad_(),
            "mask_logits": torch.randn(logits, generator=generator).requires_grad_(),
        }
        for _ in range(PREDICTIONS)
    ]
    target = random_targets(int(targets), size, CLASSES, generator)
    criterion = SetCriterion(CLASSES, num_points=int(points), matching_on=place, loss_on=place, generator=generator)
    before = peak_of_this_process_mb()  # the inputs are the most that there has been
    losses = criterion({**predictions[0], "auxiliary": predictions[1:]}, [target])
    criterion.total(losses).backward()
    return peak_of_this_process_mb() - before


MEASURES = {"step": measure_step, "loss": measure_loss}


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the mode, by the names of `step_cost` or `loss_cost`.

    Raises InputError for one of the other mode, or a crop that is no multiple of 32.
    """
    mine, others = (OF_THE_LOSS, OF_A_STEP) if arguments.loss else (OF_A_STEP, OF_THE_LOSS)
    if ignored := [name for name in others if getattr(arguments, name) is not None]:
        raise InputError(
            f"--{ignored[0]}: expected it {'without' if arguments.loss else 'with'} --loss, "
            f"got it {'with' if arguments.loss else 'without'}"
        )
    given = {name: getattr(arguments, name) for name in mine}
    chosen = mine | {name: value for name, value in given.items() if value is not None}
    if arguments.loss and any(edge % COARSEST for edge in chosen["crop"]):
        raise InputError(f"--crop: expected multiples of {COARSEST}, got {chosen['crop'][0]} {chosen['crop'][1]}")
    return chosen | {"threads": arguments.threads}


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Seconds and memory of a training step against Hugging Face's; memory of the loss.",
        epilog="example: python benchmarks/training_cost.py --case r50-small --threads 2 --save",
    )
    parser.add_argument("--case", choices=CASE_NAMES, help="network and batch (default r50-small)")
    parser.add_argument("--steps", type=positive_number, help="timed steps a side (default 9)")
    parser.add_argument("--threads", type=positive_number, default=2, help="default 2")
    parser.add_argument("--loss", action="store_true", help="the loss alone: points against full masks")
    parser.add_argument("--crop", type=positive_number, nargs=2, metavar=("H", "W"),
                        help="of the loss alone (default 1024 1024)")  # fmt: skip
    parser.add_argument("--targets", type=positive_number, help="of the loss alone (default 30)")
    parser.add_argument("--points", type=positive_number, help="of the loss alone (default 12544)")
    parser.add_argument("--save", action="store_true", help=f"append the row to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)  # in the fresh process
    arguments = parser.parse_args(argv)
    if arguments.measure:
        what, *rest = arguments.measure
        print(f"{MEASURES[what](*rest):.1f}")
        return 0
    chosen = settings(arguments)
    row = loss_cost(**chosen) if arguments.loss else step_cost(**chosen)
    described = machine.describe()
    row = {
        "date": machine.today(), "commit": machine.commit(), "machine": described["machine"],
        "cpu": described["cpu"], "threads": arguments.threads,
        "versions": " ".join(f"{name}={described['versions'].get(name, '')}" for name in ("torch", "transformers")),
        **row,
    }  # fmt: skip
    if arguments.save:
        append_row(RESULTS, COLUMNS, row)
    if arguments.json:
        print(json.dumps(row))
        return 0
    if "ratio" in row:
        print(
            f"{row['case']}: {row['seconds_p50']:.3f} s a step, Hugging Face {row['reference_seconds_p50']:.3f} s "
            f"(ratio {row['ratio']:.2f})"
        )
    print(
        f"peak memory: {row['contender']} {row['peak_mb']} MB, {row['reference']} {row['reference_peak_mb']} MB "
        f"(ratio {row['memory_ratio']:.2f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
