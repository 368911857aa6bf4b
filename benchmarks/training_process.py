"""A training run in a process of its own, as one would type it.

code = run_training(("--config", "street-lite", "--data", "camvid", "--out", "artifacts/street-lite"))
stopped = code in STOPPED     # it has saved its state, and --resume goes on
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mask2edge.train.run_folder import read_metrics

TRAIN = Path(__file__).resolve().parents[1] / "train" / "train.py"
STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)


def run_training(arguments: Sequence[str]) -> int:
    """Runs train.py to its end, its messages on stderr; its exit code.

    Ctrl-C reaches it directly and SIGTERM is passed on; either way it is waited for, since it saves its state first.
    """
    with subprocess.Popen([sys.executable, str(TRAIN), *arguments], stdout=subprocess.DEVNULL) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGTERM:
                process.terminate()

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def has_ended(metrics: Path, steps: int) -> bool:
    """Whether a run's metrics.jsonl has the validation after its last step."""
    return any(row["kind"] == "validation" and row["step"] == steps for row in read_metrics(metrics))
