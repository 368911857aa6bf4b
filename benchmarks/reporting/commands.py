"""The command that makes a row again, from what the row says of itself.

    command_of(row)     # "python benchmarks/compare_peers.py --backbone r50 --size 512x512 --threads 2 --save"

A row that keeps its own command has that. What a row does not know is to be filled in: names in capitals, and the
folder of an engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from mask2edge.benchmarks.reporting.rows import Row

SCRIPTS = {
    "accuracy": "accuracy", "latency": "latency", "peers": "compare_peers", "area_sweep": "area_sweep",
    "kernels": "kernels", "postprocessing": "postprocessing", "pipeline": "pipeline", "scenarios": "latency",
    "session_settings": "session_settings", "training_cost": "training_cost", "int8_sensitivity": "int8_sensitivity",
    "precision_islands": "precision_islands", "gate-base": "gate_figures",
    "overfit": "overfit", "ablations": "ablations",
}  # fmt: skip
RECORD = "--record"  # what three older scripts call --save


def command_of(row: Row) -> str:
    """ "" for a file that nobody knows."""
    if row.get("command"):
        return row.get("command")
    if row.file not in SCRIPTS:
        return ""
    return " ".join(("python", f"benchmarks/{SCRIPTS[row.file]}.py", *_ARGUMENTS[row.file](row)))


def _flags(row: Row, flags: Mapping[str, str]) -> list[str]:
    """`flags`: column -> flag; left out where the row has nothing, or the default."""
    found: list[str] = []
    for column, flag in flags.items():
        if row.get(column) not in ("", "default"):
            found += [flag, row.get(column)]
    return found


def _latency(row: Row) -> list[str]:
    # Rows of before there were several files for an engine name their own.
    engine = row.get("engine").split(" ")[0]
    named = _flags(row, {"peer": "--peer", "size": "--size"}) if row.get("peer") else [engine]
    mode = row.get("mode").split(" ")
    if mode[0] in ("cool", "sustained"):
        named += [f"--{mode[0]}", mode[1]]
    runs = [] if mode[0] == "sustained" else _flags(row, {"runs": "--runs"})
    return [*named, *_flags(row, {"threads": "--threads"}), *runs, "--save"]


def _scenario(row: Row) -> list[str]:
    engine = row.get("engine").split(" ")[0]
    return [engine, *_flags(row, {"scenario": "--scenario", "threads": "--threads"}), "--save"]


def _peers(row: Row) -> list[str]:
    flags = {"backbone": "--backbone", "size": "--size", "threads": "--threads", "runs": "--runs"}
    return [*_flags(row, flags), "--save"]


def _area_sweep(row: Row) -> list[str]:
    flags = {"backbone": "--backbone", "size": "--sizes", "threads": "--threads", "runs": "--runs"}
    return [*_flags(row, flags), "--save"]


def _kernels(row: Row) -> list[str]:
    return [*_flags(row, {"case": "--case", "threads": "--threads", "runs": "--runs"}), RECORD]


def _postprocessing(row: Row) -> list[str]:
    flags = {"case": "--case", "task": "--task", "size": "--size", "threads": "--threads", "runs": "--runs"}
    return [*_flags(row, flags), "--engine", "ENGINE", "--save"]


def _pipeline(row: Row) -> list[str]:
    stream = ["--stream"] if row.get("mode") == "stream" else []
    files = ["--data", "DIR"] if row.get("files") not in ("", "1") else []
    torch = [] if row.get("torch_p50_ms") or not stream else ["--no-torch"]
    return [*stream, *files, *torch, *_flags(row, {"threads": "--threads", "runs": "--runs"}), "--save"]


def _session_settings(row: Row) -> list[str]:
    return [row.get("engine"), *_flags(row, {"threads": "--threads", "runs": "--runs"}), "--save"]


def _training_cost(row: Row) -> list[str]:
    if row.get("what") == "loss":
        crop = row.get("crop").split("x")
        amounts = _flags(row, {"targets": "--targets", "points": "--points"})
        return ["--loss", "--crop", *crop, *amounts, *_flags(row, {"threads": "--threads"}), "--save"]
    return [*_flags(row, {"case": "--case", "steps": "--steps", "threads": "--threads"}), "--save"]


def _int8_sensitivity(row: Row) -> list[str]:
    timed = _flags(row, {"timed": "--timed", "threads": "--threads"})
    model = ["--model", f"models/{row.get('model')}"]
    return ["--data", "DIR", *model, *_flags(row, {"images": "--images"}), *timed, RECORD]


def _precision_islands(row: Row) -> list[str]:
    return [f"models/{row.get('model')}", "--data", "DIR", *_flags(row, {"images": "--images"}), RECORD]


def _ablations(row: Row) -> list[str]:
    flags = {"config": "--config", "steps": "--steps", "seed": "--seeds", "row": "--rows"}
    settings = ["--set", *map(shlex.quote, row.get("common").split(" "))] if row.get("common") else []
    return ["--data", row.get("data"), *_flags(row, flags), *settings]


_ARGUMENTS: Mapping[str, Callable[[Row], list[str]]] = {
    "accuracy": lambda row: ["ARTIFACT", *_flags(row, {"task": "--task", "split": "--split"}), "--data", "DIR"],
    "latency": _latency,
    "scenarios": _scenario,
    "peers": _peers,
    "area_sweep": _area_sweep,
    "kernels": _kernels,
    "postprocessing": _postprocessing,
    "pipeline": _pipeline,
    "session_settings": _session_settings,
    "training_cost": _training_cost,
    "int8_sensitivity": _int8_sensitivity,
    "precision_islands": _precision_islands,
    "gate-base": lambda row: [],
    "overfit": lambda row: ["--data", "DIR", "--save"],
    "ablations": _ablations,
}
