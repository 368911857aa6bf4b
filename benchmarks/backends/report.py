"""What a comparison found, as JSON and as lines for people.

print("\\n".join(lines(report)))        # a table for each backend, then one line for each: where it diverges first
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mask2edge.benchmarks.backends.comparison import Outcome
from mask2edge.benchmarks.backends.differences import Difference, Tolerance, first_divergence, first_flip
from mask2edge.benchmarks.backends.stages import LABEL_MAP, is_counted, title


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """One backend's part of the report: `not_run`, or its stages in order and `first_divergence`."""
    about = {"backend": outcome.backend.name, "about": outcome.backend.about}
    if outcome.not_run:
        return {**about, "not_run": outcome.not_run}
    first = first_divergence(outcome.differences)
    return {
        **about,
        "note": outcome.backend.note,
        "stages": [asdict(one) for one in outcome.differences],
        "missing_stages": list(outcome.missing),
        "first_divergence": None if first is None else asdict(first),
        "verdict": verdict(outcome.differences),
    }


def verdict(differences: Sequence[Difference]) -> str:
    """One line: the first stage that diverges, the first attention mask with a flipped bit, and the label map."""
    first, flipped = first_divergence(differences), first_flip(differences)
    # A difference beyond the tolerance is false, as Polygraphy wants it.
    parts = ["no stage diverges" if first is None else f"first divergence: {title(first.stage)}, {_how(first)}"]
    if flipped is None and any(one.flips is not None and one.stage != LABEL_MAP for one in differences):
        parts.append("no bit of a mask flipped")
    elif flipped is not None and flipped is not first:
        parts.append(f"first flip: {title(flipped.stage)}, {_flips(flipped)}")
    parts += [f"label map: {_flips(one)}" for one in differences if one.stage == LABEL_MAP and one is not first]
    return "; ".join(parts)


def failures(outcomes: Sequence[Outcome], fail_on: str) -> dict[str, str]:
    """Backend -> why it fails: the first of the stages that count (see COUNTED) beyond the tolerance, or what kept it
    from running though it is there. A backend that this machine does not have fails nobody.
    """
    found = {}
    for outcome in outcomes:
        first = first_divergence(one for one in outcome.differences if is_counted(one.stage, fail_on))
        if outcome.failed:
            found[outcome.backend.name] = outcome.not_run
        elif first is not None:
            found[outcome.backend.name] = f"{title(first.stage)}, {_how(first)}"
    return found


def failure_lines(report: dict[str, Any], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """For people, with --fail-on."""
    failed = {outcome.backend.name for outcome in outcomes if outcome.failed}
    absent = sum(bool(outcome.not_run) for outcome in outcomes) - len(failed)
    for name, reason in report["failures"].items():
        yield f"{'FAILED  ' if name in failed else 'DIVERGED'} {name}: {reason}"
    diverged = len(report["failures"]) - len(failed)
    counts = f"{diverged} diverged, {len(failed)} failed, {absent} not there"
    yield f"{len(outcomes) - absent - len(failed)} backends compared by their {report['fail_on']}: {counts}"


def lines(report: dict[str, Any], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """`report`: compare_backends.py's JSON object; `outcomes`: those that it was made of."""
    tolerance = Tolerance(**report["tolerance"])
    yield "{source} on {image}, {height}x{width}, {task}, against {checkpoint} on PyTorch in float32".format(**report)
    yield (
        f"tolerance: relative L2 {tolerance.relative_l2:g}, {tolerance.flipped:.3%} of a mask's bits, "
        f"{tolerance.relabelled:.3%} of the label map's pixels"
    )
    for outcome in outcomes:
        if not outcome.not_run:
            yield from ["", *_table(outcome)]
    yield ""
    for outcome in outcomes:
        text = f"not run: {outcome.not_run}" if outcome.not_run else verdict(outcome.differences)
        yield f"{outcome.backend.name}: {text}"
    if report["fail_on"]:
        yield from failure_lines(report, outcomes)


def _table(outcome: Outcome) -> Iterator[str]:
    first = first_divergence(outcome.differences)
    yield f"{outcome.backend.name}: {outcome.backend.about}"
    yield f"  {'stage':<38}{'relative L2':>12}{'max abs':>10}  flips"
    for one in outcome.differences:
        mark = "   <- first divergence" if one is first else ""
        if one.problem:
            yield f"  {title(one.stage):<38}{one.problem}{mark}"
            continue
        numbers = "".join(
            f"{'' if value is None else format(value, '.1e'):>{width}}"
            for value, width in ((one.relative_l2, 12), (one.max_abs, 10))
        )
        flips = "" if one.flips is None else f"{one.flips} of {one.of}"
        yield f"  {title(one.stage):<38}{numbers}  {flips}{mark}".rstrip()
    if outcome.backend.note:
        yield f"  ({outcome.backend.note})"
    elif outcome.missing:
        yield f"  (not in this graph: {', '.join(map(title, outcome.missing))})"


def _how(one: Difference) -> str:
    if one.problem:
        return one.problem
    parts = [] if one.relative_l2 is None else [f"relative L2 {one.relative_l2:.1e}"]
    if one.flips is not None:
        parts.insert(0, _flips(one))
    return ", ".join(parts)


def _flips(one: Difference) -> str:
    return f"{one.flips} of {one.of} " + ("pixels changed" if one.stage == LABEL_MAP else "bits flipped")
