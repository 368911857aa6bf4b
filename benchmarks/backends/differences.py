"""How far a backend's stages are from the reference's: a compare function for Polygraphy's comparator.

    Comparator.compare_accuracy(results, compare_func=StageComparison(TOLERANCES["fp32"]))

Polygraphy's own compare functions give statistics of one array; none of them counts the signs that decide what a
decoder layer attends to, and none knows an order of the outputs, of which the first that differs is the one to look at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mask2edge.benchmarks.backends.stages import LABEL_MAP, is_mask, place


@dataclass(frozen=True)
class Tolerance:
    """What a stage may differ by before it counts as diverged."""

    relative_l2: float
    flipped: float  # share of a mask's bits
    relabelled: float  # share of the label map's pixels


# fp32, fp16 and bf16: those of the GPU check. fp16 on ONNX Runtime rounds weights alone, and stays well below.
TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-4, 1e-3),
    "fp16": Tolerance(3e-2, 5e-3, 1e-2),
    "bf16": Tolerance(2e-1, 3e-2, 5e-2),
    "int8": Tolerance(4e-1, 5e-2, 1e-1),
}


@dataclass(frozen=True)
class Difference:
    """Of one stage. True where it is within the tolerance, as Polygraphy wants it."""

    stage: str
    within: bool
    max_abs: float | None  # None: classes, whose numbers mean nothing, or `problem`
    relative_l2: float | None
    flips: int | None = None  # bits of a mask, or pixels of a label map, that differ
    of: int | None = None
    problem: str = ""  # values that are not finite, or another shape

    def __bool__(self) -> bool:
        return self.within


class StageComparison:
    """Maps two results of Polygraphy's runners to the differences of the stages that both have, in order."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance

    def __call__(
        self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
    ) -> OrderedDict[str, Difference]:
        stages = sorted(set(expected.keys()) & set(found.keys()), key=place)
        return OrderedDict((name, difference(name, found[name], expected[name], self._tolerance)) for name in stages)


def difference(stage: str, found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> Difference:
    if found.shape != expected.shape:
        return Difference(stage, False, None, None, problem=f"shape {list(found.shape)}, not {list(expected.shape)}")
    if stage == LABEL_MAP:
        changed = int(np.count_nonzero(found != expected))
        return Difference(stage, changed <= tolerance.relabelled * found.size, None, None, changed, found.size)
    wrong = int(np.count_nonzero(~np.isfinite(found)))
    if wrong:
        return Difference(stage, False, None, None, problem=f"{wrong} of {found.size} values not finite")
    error = relative_l2(found, expected)
    if not np.isfinite(error):
        return Difference(stage, False, None, None, problem="values where the reference has zeros alone")
    within, flips, of = error <= tolerance.relative_l2, None, None
    if is_mask(stage):
        flips, of = int(np.count_nonzero((found >= 0) != (expected >= 0))), found.size
        within = within and flips <= tolerance.flipped * of
    furthest = float(np.abs(found.astype(np.float64) - expected).max())
    return Difference(stage, within, furthest, error, flips, of)


def relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    wide = expected.astype(np.float64)
    error, norm = np.linalg.norm((found - wide).ravel()), np.linalg.norm(wide.ravel())
    return float(error / norm) if norm else float(error and np.inf)


def first_divergence(differences: Iterable[Difference]) -> Difference | None:
    """The first stage beyond the tolerance."""
    return next((one for one in differences if not one), None)


def first_flip(differences: Iterable[Difference]) -> Difference | None:
    """The first attention mask, or else the masks of the result, with a bit that flipped; those that layers would
    predict on the way decide nothing."""
    return next((one for one in differences if one.flips and one.stage.endswith("mask_logits")), None)
