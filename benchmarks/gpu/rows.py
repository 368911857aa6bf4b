"""One line of the GPU check's table, and the file that a step leaves its lines in.

    with RowFile(Path("artifacts/gpu-check/kernels.jsonl")) as rows:
        rows.bounded("MaskedAttention masked-4096 fp16", measured=3e-4, bound=1e-3)

A line is written when it is known: a step that ends the process, as a fault on a GPU may, keeps what it had found.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

PASSED, FAILED, MEASURED, NOT_RUN = "passed", "FAILED", "measured", "not run"


@dataclass(frozen=True)
class Row:
    step: str
    what: str
    value: str
    verdict: str
    bound: str = ""


class RowFile:
    """Appends the rows of one step to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> RowFile:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, what: str, value: str, verdict: str, bound: str = "") -> None:
        assert self._file is not None
        row = Row(self._path.stem, what, value, verdict, bound)
        self._file.write(json.dumps(dataclasses.asdict(row)) + "\n")
        self._file.flush()

    def measured(self, what: str, value: str) -> None:
        """A figure without a bound."""
        self.add(what, value, MEASURED)

    def bounded(self, what: str, measured: float, bound: float, unit: str = "") -> None:
        """A figure that must not exceed its bound; NaN fails."""
        good = not math.isnan(measured) and measured <= bound
        self.add(what, f"{measured:.3g}{unit}", PASSED if good else FAILED, f"≤ {bound:.3g}{unit}")

    def failed(self, what: str, reason: str) -> None:
        self.add(what, " ".join(reason.split())[:300], FAILED)


def read_rows(path: Path) -> list[Row]:
    """The rows that a step has left; a last line that was cut off is not among them."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(Row(**json.loads(line)))
        except ValueError:
            break
    return rows
