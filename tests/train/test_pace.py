"""Speed of a run, by a clock that the test turns."""

import pytest
import torch

from mask2edge.train import pace
from mask2edge.train.pace import Pace


def test_rows_are_means_over_their_own_steps_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    measured = Pace(batch_size=8, device=torch.device("cpu"))
    for waited, skipped in ((0.5, 1), (0.25, 2)):
        now[0] += 2.0
        measured.step(waited, skipped)
    with measured.paused():
        now[0] += 1000.0
    rates = {"seconds_per_step": 2.0, "data_seconds_per_step": 0.375, "images_per_second": 4.0}
    assert measured.row() == {**rates, "skipped_images": 3}
    now[0] += 1.0
    measured.step(0.0, 0)
    rates = {"seconds_per_step": 1.0, "data_seconds_per_step": 0.0, "images_per_second": 8.0}
    assert measured.row() == {**rates, "skipped_images": 0}
