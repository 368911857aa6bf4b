"""What a run leaves in its folder, and where it goes on from.

    folder = RunFolder(Path("artifacts/street-lite"), config, spec)
    folder.log({"kind": "train", "step": 1, "loss": 3.2})

metrics.jsonl               one object a line: what was measured
last.safetensors            the weights of the last checkpoint
best.safetensors            the weights with the best validation
training_state.safetensors  what --resume needs
samples/step-N.jpg          what the network made of a few images
tensorboard/                the same figures and pictures
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.runtime.command_line import whole_file
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import Config
from mask2edge.train.tensorboard_log import TensorBoardLog
from mask2edge.train.training_state import Progress, TrainingState, save_training_state

METRICS_FILE, STATE_FILE = "metrics.jsonl", "training_state.safetensors"
LAST_FILE, BEST_FILE = "last.safetensors", "best.safetensors"
SAMPLES_FOLDER, BOARD_FOLDER = "samples", "tensorboard"
BEFORE = ".before"  # what a checkpoint replaced, until a step from its weights was finite


class RunFolder:
    def __init__(self, path: Path, config: Config, spec: ModelSpec) -> None:
        self.path, self.config, self.spec = path, config, spec
        self._board: TensorBoardLog | None = None
        self._saved: Progress | None = None  # of the state in the folder

    def begin(self, state: TrainingState, resumed: bool) -> None:
        """A new run leaves a state to resume at once; a resumed one writes the rows after its state again."""
        self.settle()
        self._board = TensorBoardLog(self.path / BOARD_FOLDER, state.progress.step + 1)
        if resumed:
            rewind_metrics(self.path / METRICS_FILE, state.progress)
        else:
            save_training_state(self.path / STATE_FILE, self.config, self.spec, state)
        self._saved = replace(state.progress)

    def log(self, row: Mapping[str, Any]) -> None:
        append_metrics(self.path / METRICS_FILE, row)
        if self._board:
            self._board.row(row)

    def save_samples(self, sheet: np.ndarray, step: int) -> None:
        """sheet: BGR uint8 [H, W, 3]"""
        with whole_file(self.path / SAMPLES_FOLDER / f"step-{step}.jpg") as temporary:
            cv2.imwrite(str(temporary), sheet)
        if self._board:
            self._board.picture("samples", sheet, step)

    def save(self, state: TrainingState) -> None:
        """The state and its weights, where steps or a validation were added to what was saved."""
        if self._board:
            self._board.flush()
        if state.progress != self._saved:
            if self._saved is None or state.progress.step != self._saved.step:
                self._set_aside()
            save_training_state(self.path / STATE_FILE, self.config, self.spec, state)
            self._save_checkpoint(LAST_FILE, state)
            self._saved = replace(state.progress)

    def settle(self) -> None:
        """The last checkpoint stays: a step from its weights was finite, or the run ends."""
        for name in (STATE_FILE, LAST_FILE):
            (self.path / f"{name}{BEFORE}").unlink(missing_ok=True)

    def take_back(self) -> None:
        """The first step from the last checkpoint was not finite: the one before it takes its place again."""
        if not (self.path / f"{STATE_FILE}{BEFORE}").exists():
            return
        for name in (STATE_FILE, LAST_FILE):
            before = self.path / f"{name}{BEFORE}"
            if before.exists():
                before.replace(self.path / name)
            else:  # the state before the first step, which has no last.safetensors
                (self.path / name).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        self.settle()
        for name in (STATE_FILE, LAST_FILE):
            if (self.path / name).exists():
                try:
                    (self.path / f"{name}{BEFORE}").hardlink_to(self.path / name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.path / name, self.path / f"{name}{BEFORE}")

    def save_best(self, state: TrainingState) -> None:
        self._save_checkpoint(BEST_FILE, state)

    def _save_checkpoint(self, name: str, state: TrainingState) -> None:
        save_checkpoint(
            self.path / name,
            state.evaluated.state_dict(),
            self.config.model,
            self.spec,
            step=state.progress.step,
            config_digest=self.config.digest(),
        )


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line that was cut off while written is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return


def rewind_metrics(path: Path, progress: Progress) -> None:
    """Removes the rows that come after the state that is resumed: the run will write them again."""
    kept = [
        row
        for row in read_metrics(path)
        if row["step"] <= (progress.validated if row["kind"] == "validation" else progress.step)
    ]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
