"""Curves and pictures for TensorBoard, beside metrics.jsonl, which stays the record.

log = TensorBoardLog(out / "tensorboard", first_step=1)
log.row({"kind": "train", "step": 1, "loss": 3.2})      # tensorboard --logdir OUT
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import say


class TensorBoardLog:
    """Nothing is written before the first row, and nothing where the package `tensorboard` is absent: a line says so.

    Of an earlier process's events, those from `first_step` on are hidden: a resumed run writes them again.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._writer: Any = None
        self._open: Callable[[], Any] | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("no TensorBoard files are written: pip install tensorboard; metrics.jsonl has all figures")
        else:
            self._open = lambda: SummaryWriter(str(folder), purge_step=first_step)

    def row(self, row: Mapping[str, Any]) -> None:
        """Every number of a row of metrics.jsonl, under its kind: train/loss, validation/per_class/semantic/Car/IoU."""
        for name, value in _numbers(row["kind"], {k: v for k, v in row.items() if k not in ("kind", "step")}):
            self._to_writer("add_scalar", name, value, row["step"])

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """image: BGR uint8 [H, W, 3]"""
        self._to_writer("add_image", name, image[:, :, ::-1].copy(), step, dataformats="HWC")

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _to_writer(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._open:
            self._writer = self._writer or self._open()
            getattr(self._writer, method)(*arguments, **options)


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)):
            yield f"{prefix}/{name}", value
