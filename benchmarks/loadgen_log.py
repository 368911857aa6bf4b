"""What MLPerf LoadGen says of a run: its two log files, read.

    log = LoadGenLog.read(folder)
    log.verdict                                            # "VALID" or "INVALID", from the summary
    log.detail["result_90.00_percentile_latency_ns"]       # figures, from the detailed log, which is JSON by lines

The detailed log has figures under keys of their own; the summary's text is for people.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "mlperf_log_"
MARK = ":::MLLOG "
PERCENTILES = {"p50": "50.00", "p90": "90.00", "p95": "95.00", "p97": "97.00", "p99": "99.00", "p99_9": "99.90"}
VERDICT = "Result is : "
CONSTRAINTS = {  # that a valid run satisfies, where the scenario has them
    "performance": "result_perf_constraints_met",
    "min_duration": "result_min_duration_met",
    "min_queries": "result_min_queries_met",
    "early_stopping": "early_stopping_met",
}


@dataclass(frozen=True)
class LoadGenLog:
    """One run's."""

    verdict: str
    notes: list[str]  # recommendations, and what early stopping says, a sentence each
    detail: dict[str, Any]  # the last value of each key

    @classmethod
    def read(cls, folder: Path) -> LoadGenLog:
        """Raises ValueError where the summary has no verdict: LoadGen was stopped before it had one."""
        summary = (folder / f"{PREFIX}summary.txt").read_text(encoding="utf-8").splitlines()
        verdicts = [line.removeprefix(VERDICT).strip() for line in summary if line.startswith(VERDICT)]
        if not verdicts:
            raise ValueError(f"{folder}: LoadGen's summary has no verdict")
        detail = {}
        for line in (folder / f"{PREFIX}detail.txt").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(MARK):
                entry = json.loads(line.removeprefix(MARK))
                detail[entry["key"]] = entry["value"]
        return cls(verdicts[0], _notes(summary), detail)

    @property
    def constraints(self) -> dict[str, bool]:
        return {name: self.detail[key] for name, key in CONSTRAINTS.items() if key in self.detail}

    def latency_ms(self) -> dict[str, float]:
        """Of a query: min, mean, max and LoadGen's percentiles."""
        per_query = "result_min_query_latency_ns" in self.detail  # queries of several samples
        keys = {name: f"result_{name}_{'query_' if per_query else ''}latency_ns" for name in ("min", "mean", "max")}
        middle = "percentile_per_query_latency_ns" if per_query else "percentile_latency_ns"
        keys |= {name: f"result_{percent}_{middle}" for name, percent in PERCENTILES.items()}
        return {name: self.milliseconds(key) for name, key in keys.items()}

    def milliseconds(self, key: str) -> float:
        return round(float(self.detail[key]) / 1e6, 6)


def _notes(summary: list[str]) -> list[str]:
    """The items between the verdict and the next empty line; an item may go on over several lines."""
    notes: list[str] = []
    start = next(i for i, line in enumerate(summary) if line.startswith(VERDICT))
    for line in summary[start + 1 :]:
        if not line.strip():
            break
        if line.startswith(" * "):
            notes.append(line[3:].strip())
        elif notes and not line.endswith(":"):
            notes[-1] += f" {line.strip()}"
    return [note for note in notes if note]
