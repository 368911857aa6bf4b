"""The differences between ablations and their baseline, over seeds, beside the paper's.

    print(markdown(differences(recorded_runs, ["mask2former", "fpn"])))

A row is compared with the baseline of the same seed, so that what a seed brings (its data's order, its first weights)
is in both. The spread is the standard deviation of these differences over the seeds. A row of one seed, where the
baseline has more, is compared with the baseline's mean, and its spread is what the baseline's own runs would have about
the mean of as many others: their standard deviation times the square root of 1 + 1 / n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mask2edge.benchmarks.ablation_rows import BASELINE, METRICS, PAPER_DATA, ROWS

SAME, OPPOSITE, WITHIN, NO_SIGN, ONE_SEED = "same", "opposite", "within the spread", "–", " (one seed)"


def differences(runs: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each row that has runs: {"row", "table", "seconds_per_step", "metrics": {metric: figures}}.

    `runs`: rows of the CSV, of one budget. figures: {"mean", "seeds", "difference", "spread", "paper", "sign"}, in
    points; difference and spread are None where they need runs that are not there. The baseline's own spread is the
    standard deviation of its runs.
    """
    table = []
    for name in names:
        mine = [run for run in runs if run["row"] == name]
        if mine:
            seconds = float(np.mean([float(run["seconds_per_step"]) for run in mine]))
            metrics = {metric: _figures(runs, name, metric) for metric in METRICS if any(run[metric] for run in mine)}
            table.append({"row": name, "table": ROWS[name].table, "seconds_per_step": seconds, "metrics": metrics})
    return table


def _figures(runs: Sequence[Mapping[str, str]], name: str, metric: str) -> dict[str, Any]:
    mine, base = (_by_seed(runs, row, metric) for row in (name, BASELINE))
    if name == BASELINE:
        difference, spread = None, _deviation(list(mine.values()))
    else:
        difference, spread = _difference(mine, base)
    paper = ROWS[name].difference(metric) if name != BASELINE else None
    return {
        "mean": float(np.mean(list(mine.values()))),
        "seeds": len(mine),
        "difference": difference,
        "spread": spread,
        "paper": paper,
        "sign": sign(difference, spread, paper),
    }


def _difference(mine: Mapping[str, float], base: Mapping[str, float]) -> tuple[float | None, float | None]:
    """Difference and spread; see above."""
    if len(mine) == 1 and len(base) > 1:
        deviation = _deviation(list(base.values())) or 0.0
        return next(iter(mine.values())) - float(np.mean(list(base.values()))), deviation * (1 + 1 / len(base)) ** 0.5
    paired = [mine[seed] - base[seed] for seed in mine if seed in base]
    return (float(np.mean(paired)) if paired else None), _deviation(paired)


def _deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample; None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def sign(difference: float | None, spread: float | None, paper: float | None) -> str:
    """Whether a difference has the sign of the paper's; one of 0, or no larger than its spread, has none.

    That of one seed, whose spread is not known, is marked so.
    """
    if not difference or not paper:
        return NO_SIGN
    if spread is not None and abs(difference) <= spread:
        return WITHIN
    return (SAME if difference * paper > 0 else OPPOSITE) + (ONE_SEED if spread is None else "")


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """One line for each row; the metrics that were measured side by side."""
    metrics = [metric for metric in METRICS if any(metric in row["metrics"] for row in table)]
    head = ["row", "table"]
    for metric in metrics:
        head += [metric, f"Δ {metric}", f"paper's Δ ({PAPER_DATA[metric]})", "sign"]
    lines = [[*head, "s/step"], ["---"] * (len(head) + 1)]
    for row in table:
        line = [row["row"], row["table"]]
        for metric in metrics:
            line += _cells(row["metrics"].get(metric))
        lines.append([*line, f"{row['seconds_per_step']:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(figures: Mapping[str, Any] | None) -> list[str]:
    if figures is None:
        return ["–"] * 4
    mean = f"{figures['mean']:.1f} ({figures['seeds']})"
    paper = "–" if figures["paper"] is None else f"{figures['paper']:+.1f}"
    spread = "" if figures["spread"] is None else f" ± {figures['spread']:.1f}"
    if figures["difference"] is None:
        return [f"{figures['mean']:.1f}{spread} ({figures['seeds']})", "–", paper, figures["sign"]]
    return [mean, f"{figures['difference']:+.1f}{spread}", paper, figures["sign"]]


def _by_seed(runs: Sequence[Mapping[str, str]], name: str, metric: str) -> dict[str, float]:
    """seed -> points."""
    return {run["seed"]: 100 * float(run[metric]) for run in runs if run["row"] == name and run[metric]}
