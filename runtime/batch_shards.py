"""The shards of a batch run: which images each holds, which are done, and how one is made.

    plan = ShardPlan.load_or_make(out, folder, about, shard_size=64)
    plan.unfinished(out)                       # the shards to do: those without a whole file
    ShardWorker(engine, out, folder, task, threads=1)(name, plan.shards[name])

Which images are in a shard is written down once, in shards.json, and never changes; a shard's file is whole or absent.
So whoever makes a shard, and however often, each image is in the results exactly once.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mask2edge.runtime import formats
from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.runtime.images import IMAGE_SUFFIXES
from mask2edge.runtime.segment_entries import entries
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.stream import Frame, stream

PLAN_FILE = "shards.json"
SHARDS = "shards"  # the folder of the Parquet files
MAPS = "maps"  # the folder of the label maps
SEGMENT = pa.struct(
    [
        ("id", pa.int32()),
        ("label_id", pa.int32()),
        ("label", pa.string()),
        ("is_thing", pa.bool_()),
        ("score", pa.float64()),
        ("area", pa.int64()),
        ("box", pa.list_(pa.int32())),
        ("rle", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # its path within the folder, with /
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("task", pa.string()),
        ("segments", pa.list_(SEGMENT)),
        ("error", pa.string()),  # null where there is none; then width, height and segments are null
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """What a folder of results is made of."""

    about: dict[str, str]  # engine_sha256 and task: results of others do not belong beside these
    shards: dict[str, list[str]]  # name -> images

    @classmethod
    def load_or_make(cls, out: Path, folder: Path, about: dict[str, str], shard_size: int) -> ShardPlan:
        """The plan in `out`, with new shards for images that are not in it. Raises InputError for another engine's."""
        path = out / PLAN_FILE
        shards = cls._load(path, about) if path.exists() else {}
        known = {image for images in shards.values() for image in images}
        new = [image for image in images_within(folder) if image not in known]
        first = len(shards)
        for number, start in enumerate(range(0, len(new), shard_size), start=first):
            shards[f"shard-{number:06d}"] = new[start : start + shard_size]
        if not shards:
            suffixes = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise InputError(f"{folder}: expected images ({suffixes}) in this folder or below, got none")
        plan = cls(about, shards)
        if new:
            with whole_file(path) as temporary:
                temporary.write_text(json.dumps({**about, "shards": shards}) + "\n", encoding="utf-8")
        return plan

    @staticmethod
    def _load(path: Path, about: dict[str, str]) -> dict[str, list[str]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            shards = {str(name): [str(image) for image in images] for name, images in found["shards"].items()}
            there = {name: found[name] for name in about}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(f"{path}: expected the shards of an earlier run, got damaged JSON; remove it") from error
        for name, value in about.items():
            if there[name] != value:
                raise InputError(
                    f"{path.parent}: holds results of another run ({name} {there[name]}, now {value}); "
                    "choose another --out"
                )
        return shards

    def unfinished(self, out: Path, retry_failed: bool = False) -> list[str]:
        """The shards without a whole file; with `retry_failed`, those with failed images as well."""
        return [
            name
            for name, images in self.shards.items()
            if not is_whole(shard_file(out, name), len(images)) or (retry_failed and failures(out, name))
        ]


class ShardWorker:
    """Makes one shard after another with an engine of its own."""

    def __init__(self, engine: Path, out: Path, folder: Path, task: str, threads: int = 0, maps: bool = False) -> None:
        """Raises InputError where the engine does not load."""
        self._segmenter = Segmenter.load(engine, threads=threads, streaming=True)
        self._out, self._folder, self._task, self._maps = out, folder, task, maps

    def __call__(self, name: str, images: list[str]) -> dict[str, Any]:
        """Writes the shard's file. Returns {"shard", "images", "failed", "start", "end"}, the last two in seconds."""
        start = time.time()
        paths = [self._folder / image for image in images]
        frames = stream(self._segmenter, paths, self._task)
        rows = [self._row(frame, image) for frame, image in zip(frames, images, strict=True)]
        path = shard_file(self._out, name)
        with whole_file(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
        failed = sum(row["error"] is not None for row in rows)
        return {"shard": name, "images": len(rows), "failed": failed, "start": start, "end": time.time()}

    def _row(self, frame: Frame, image: str) -> dict[str, Any]:
        row: dict[str, Any] = {"image": _as_utf8(image), "task": self._task, "error": None}
        if frame.result is None:
            return {**row, "error": _as_utf8(" ".join(str(frame.error).split()))}
        if self._maps:
            # The image's own suffix stays, so that a.jpg and a.png are two maps.
            ids = frame.result.label_map.astype(np.uint16)  # [H, W]
            formats.write_image(self._out / MAPS / f"{image}.png", ids)
        height, width = frame.result.size
        return {**row, "width": width, "height": height, "segments": entries(frame.result)}


def _as_utf8(text: str) -> str:
    """For a table, which takes nothing else; names of files may be other bytes."""
    return text.encode(errors="backslashreplace").decode()


def images_within(folder: Path) -> list[str]:
    """Paths of the images in `folder` and below, relative to it, in order. Hidden ones are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    visible = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(path.as_posix() for path in visible if (folder / path).is_file())


def shard_file(out: Path, name: str) -> Path:
    return out / SHARDS / f"{name}.parquet"


def is_whole(path: Path, rows: int) -> bool:
    """Whether a shard's file is there and sound: by its footer, which is written last."""
    try:
        return path.is_file() and pq.read_metadata(path).num_rows == rows
    except (pa.ArrowException, OSError):
        return False


def failures(out: Path, name: str) -> list[dict[str, str]]:
    """[{"image", "error"}] of a finished shard."""
    rows = pq.read_table(shard_file(out, name), columns=["image", "error"]).to_pylist()
    return [row for row in rows if row["error"] is not None]
