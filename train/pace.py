"""How fast a run goes: seconds a step, of which waiting for data, images a second and skipped, peak memory.

pace = Pace(batch_size=16, device=device)
pace.step(waited=0.01, skipped=0)
with pace.paused(): validate()
pace.row()      # of the steps since the last row
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Pace:
    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.batch_size, self.device = batch_size, device
        self._restart()

    def step(self, waited: float, skipped: int) -> None:
        """One more step: `waited` seconds went by without a batch, `skipped` images could not be read for it."""
        self._steps += 1
        self._waited += waited
        self._skipped += skipped

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in the block is no step's."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def row(self) -> dict[str, float]:
        """Means over the steps since the last row, one at least; skipped_images: their sum. peak_memory_gb: since the
        start, where there is a GPU."""
        seconds = (time.perf_counter() - self._started) / self._steps
        row = {
            "seconds_per_step": seconds,
            "data_seconds_per_step": self._waited / self._steps,
            "images_per_second": self.batch_size / seconds,
            "skipped_images": self._skipped,
        }
        if self.device.type == "cuda":
            row["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self._restart()
        return row

    def _restart(self) -> None:
        self._steps, self._waited, self._skipped = 0, 0.0, 0
        self._started = time.perf_counter()
