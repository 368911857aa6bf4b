"""TensorBoard's files, read back by TensorBoard; and a line where it is not installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mask2edge.train.tensorboard_log import TensorBoardLog


def test_numbers_and_pictures_arrive(tmp_path: Path) -> None:
    reason = "TensorBoard reads its files: pip install tensorboard"
    pytest.importorskip("torch.utils.tensorboard", reason=reason, exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLog(tmp_path, first_step=1)
    assert not list(tmp_path.iterdir())
    for step in (1, 2, 3):
        first.row({"kind": "train", "step": step, "loss": 10.0 - step})
    first.row({"kind": "validation", "step": 3, "mIoU": 0.5, "iou": {"Car": 0.25, "Pole": None}})
    first.picture("samples", np.zeros((4, 6, 3), np.uint8), 3)
    first.flush()
    resumed = TensorBoardLog(tmp_path, first_step=3)  # from the state of step 2
    resumed.row({"kind": "train", "step": 3, "loss": 1.0})
    resumed.flush()

    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 9.0), (2, 8.0), (3, 1.0)]
    assert set(found.Tags()["scalars"]) == {"train/loss", "validation/mIoU", "validation/iou/Car"}
    assert found.Tags()["images"] == ["samples"]


def test_its_absence_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = TensorBoardLog(tmp_path, first_step=1)
    log.row({"kind": "train", "step": 1, "loss": 1.0})
    log.picture("samples", np.zeros((4, 6, 3), np.uint8), 1)
    log.flush()
    assert "no TensorBoard files are written: pip install tensorboard" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
