"""accuracy.py's figures beside the latency of the same artifact: joined by checksum, never by name.

    python benchmarks/accuracy.py X.engine --task semantic --data DIR --json > accuracy.json
    python benchmarks/latency.py X.engine --accuracy accuracy.json --save

A figure of another engine file is refused: a row says what one artifact does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError

KEYS = ("task", "data", "split", "images", "metrics")


def read_accuracy(paths: Sequence[Path], engines: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """{sha256: [{"task", "data", "split", "images", "metrics"}, …]}. `engines`: their names by sha256. Raises
    InputError for a file that is of none of them, or is not accuracy.py's JSON.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        figures = _read(path)
        digest = figures["sha256"]
        if digest not in engines:
            wanted = ", ".join(f"{name} ({sha256[:16]}…)" for sha256, name in engines.items())
            raise InputError(
                f"{path}: expected figures of {wanted}, got those of another file, {digest[:16]}…; "
                "run accuracy.py on the very engine that is timed"
            )
        found.setdefault(digest, []).append({key: figures[key] for key in KEYS})
    return found


def accuracy_text(report: Mapping[str, Any]) -> str:
    """`semantic mIoU=0.7245 pixel_accuracy=0.9378 (camvid val, 101 images)`; empty without."""
    return "; ".join(
        f"{one['task']} {' '.join(f'{name}={value:.4f}' for name, value in one['metrics'].items())} "
        f"({Path(one['data']).name} {one['split']}, {one['images']} images)"
        for one in report.get("accuracy", ())
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = all(key in found for key in KEYS)
        if complete and isinstance(found["sha256"], str) and isinstance(found["metrics"], dict):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: expected what accuracy.py --json prints, got something else or no file")
