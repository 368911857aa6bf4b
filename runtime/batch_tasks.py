"""A shard as Ray Data's workers get it: a batch of one row in, a row with the report out.

dataset.map_batches(ShardTask, batch_size=1, fn_constructor_kwargs={"engine": …, "out": …, "folder": …, "task": …})

A module of its own, without Ray: workers import it by name.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.batch_shards import ShardWorker


class ShardTask:
    """One worker. Paths are absolute and the same on every machine of the cluster."""

    def __init__(self, engine: str, out: str, folder: str, task: str, threads: int, maps: bool) -> None:
        cv2.setNumThreads(threads)
        self._worker = ShardWorker(Path(engine), Path(out), Path(folder), task, threads, maps)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        reports = [
            json.dumps(self._worker(str(shard), json.loads(images)))
            for shard, images in zip(batch["shard"], batch["images"], strict=True)
        ]
        return {"report": np.array(reports, dtype=object)}
