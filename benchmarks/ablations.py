"""Trains the paper's ablations under one budget, and sets what comes out beside what the paper measured.

    python benchmarks/ablations.py --config street-lite --data ../shared/data/camvid --steps 600 --seeds 0,1,2
    python benchmarks/ablations.py --config street-lite --data ../shared/data/camvid --steps 600 --seeds 0 --table

Every run is `train/train.py` in a process of its own, and a row of benchmarks/results/ablations.csv once it has ended,
with the figures of the validation after its last step. Stop at any time: the same command goes on where it was, in the
middle of a run too. Runs that were recorded under the same settings, the configuration file's too, are not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.ablation_rows import BASELINE, METRICS, ROWS, Row
from mask2edge.benchmarks.ablation_table import differences, markdown
from mask2edge.benchmarks.results_table import append_row, read_rows
from mask2edge.benchmarks.training_process import STOPPED, has_ended, run_training
from mask2edge.runtime.command_line import InputError, command, positive_number, say
from mask2edge.train.config import load_config
from mask2edge.train.run_folder import LAST_FILE, METRICS_FILE, STATE_FILE, read_metrics
from mask2edge.train.train import parse_overrides

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ablations.csv"
IDENTITY = ("config", "data", "common", "steps", "seed", "row", "settings", "digest")
FIGURES = (*METRICS, "AP50", "PQ_things")
COLUMNS = ("date", "commit", "cpu", "versions", *IDENTITY, "seconds_per_step", *FIGURES)


@dataclass(frozen=True)
class Budget:
    """What all rows have in common. common: further settings of every run, as for --set."""

    config: str
    data: Path
    steps: int
    common: tuple[str, ...] = ()

    def identity(self, row: Row, seed: int) -> dict[str, str]:
        """What makes two runs the same one, as the CSV has it; digest: of all settings, the file's too.

        Raises InputError where train.py would.
        """
        return {
            "config": Path(self.config).stem,
            "data": self.data.resolve().name,
            "common": " ".join(self.common),
            "steps": str(self.steps),
            "seed": str(seed),
            "row": row.name,
            "settings": " ".join(self._settings_of(row)),
            "digest": load_config(self.config, parse_overrides(self.settings(row, seed))).digest()[:12],
        }

    def settings(self, row: Row, seed: int) -> tuple[str, ...]:
        """Of a run, beyond the file's."""
        every = f"train.validate_every={self.steps}"  # once, at the end: a best of several would favour lucky rows
        return (*self.common, *self._settings_of(row), f"train.steps={self.steps}", f"train.seed={seed}", every)

    def _settings_of(self, row: Row) -> tuple[str, ...]:
        base = load_config(self.config, parse_overrides(self.common))
        return row.settings_for(base.model.num_queries)

    def arguments(self, row: Row, seed: int, folder: Path) -> list[str]:
        return [
            "--config", self.config, "--data", str(self.data), "--out", str(folder),
            "--set", *self.settings(row, seed),
            *(["--resume"] if (folder / STATE_FILE).is_file() else []),
        ]  # fmt: skip


def run(budget: Budget, rows: Sequence[Row], seeds: Sequence[int], out: Path, results: Path) -> list[str]:
    """Trains what is not recorded yet, all rows of a seed before the next seed; the runs that failed, by name.

    A run that has ended and is not in `results` (another file, or a stop in between) is recorded without training.
    Raises KeyboardInterrupt where a run was stopped: it has saved its state, and the next call goes on with it;
    InputError where `results` is another table.
    """
    identities = {(row.name, seed): budget.identity(row, seed) for seed in seeds for row in rows}
    recorded = [{key: row[key] for key in IDENTITY} for row in read_rows(results, COLUMNS)]
    failed = []
    for number, ((name, seed), identity) in enumerate(identities.items(), start=1):
        if identity in recorded:
            continue
        folder = out / folder_name(identity)
        if not has_ended(folder / METRICS_FILE, budget.steps):
            say(f"run {number} of {len(identities)}: {name}, seed {seed}, in {folder}")
            code = run_training(budget.arguments(ROWS[name], seed, folder))
            if code in STOPPED:
                raise KeyboardInterrupt
            if code != 0:
                failed.append(f"{name} seed {seed}")
                continue
        append_row(results, COLUMNS, describe() | identity | figures(folder / METRICS_FILE))
        for file in (STATE_FILE, LAST_FILE):  # of use to nobody once the run has ended: best.safetensors is the last
            (folder / file).unlink(missing_ok=True)
    return failed


def folder_name(identity: dict[str, str]) -> str:
    """A run of other settings is another folder."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{identity['config']}-{identity['steps']}-{identity['row']}-seed{identity['seed']}-{digest}"


def figures(metrics: Path) -> dict[str, Any]:
    """Of a run's metrics.jsonl: the last validation's figures, and the median of the seconds per step."""
    rows = list(read_metrics(metrics))
    validations = [row for row in rows if row["kind"] == "validation"]
    if not validations:
        raise InputError(f"{metrics}: expected a validation, got none; ablations are compared on a val split")
    last = validations[-1]
    seconds = np.median([row["seconds_per_step"] for row in rows if row["kind"] == "train"])
    return {"seconds_per_step": f"{seconds:.3f}", **{name: f"{last[name]:.4f}" for name in FIGURES if name in last}}


def describe() -> dict[str, str]:
    versions = machine.package_versions()
    return {
        "date": machine.today(),
        "commit": machine.commit(),
        "cpu": machine.cpu_model(),
        "versions": "; ".join(f"{name} {versions[name]}" for name in ("torch", "numpy") if name in versions),
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains the paper's ablations and compares the differences.",
        epilog="example: python benchmarks/ablations.py --config street-lite --data ../shared/data/camvid --steps 600 "
        f"--rows plain-attention,fpn. Rows: {', '.join(ROWS)}",
    )
    parser.add_argument("--config", required=True, metavar="NAME|FILE", help="the base: street-lite, nuclei-lite, …")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="with the splits train and val")
    parser.add_argument("--steps", required=True, type=positive_number, metavar="N", help="of every run")
    parser.add_argument("--seeds", default="0", metavar="0,1,2", help="each row is trained once for each (default: 0)")
    parser.add_argument("--rows", metavar="A,B", help=f"default: all; {BASELINE} is always among them")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="further settings of every run"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/ablations"), metavar="DIR", help="folder of the runs"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.csv", help="where runs are recorded")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of what is recorded")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    rows, seeds = chosen_rows(arguments.rows), chosen_seeds(arguments.seeds)
    if not arguments.data.is_dir():
        raise InputError(f"--data: expected a folder, got {str(arguments.data)!r}, which is not there")
    budget = Budget(arguments.config, arguments.data, arguments.steps, tuple(arguments.set))
    failed = [] if arguments.table else run(budget, rows, seeds, arguments.out, arguments.results)
    wanted = [budget.identity(row, seed) for row in rows for seed in seeds]
    recorded = [row for row in read_rows(arguments.results, COLUMNS) if {key: row[key] for key in IDENTITY} in wanted]
    table = differences(recorded, [row.name for row in rows])
    if arguments.json:
        print(json.dumps({"config": arguments.config, "steps": arguments.steps, "rows": table, "failed": failed}))
    else:
        print(markdown(table))
    if failed:
        raise InputError(
            f"{len(failed)} runs failed ({', '.join(failed)}), their messages are above; the others are in the table"
        )
    return 0


def chosen_rows(text: str | None) -> list[Row]:
    """The baseline first. Raises InputError for a name that is none."""
    names = list(ROWS) if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        raise InputError(f"--rows: expected names among {', '.join(ROWS)}, got {unknown[0]!r}")
    return [ROWS[name] for name in dict.fromkeys((BASELINE, *names))]


def chosen_seeds(text: str) -> list[int]:
    seeds = text.split(",")
    if not all(seed.strip().isdigit() for seed in seeds):
        raise InputError(f"--seeds: expected whole numbers such as 0,1,2, got {text!r}")
    return [int(seed) for seed in dict.fromkeys(seeds)]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # between two runs: leave as with Ctrl-C
    sys.exit(main())
