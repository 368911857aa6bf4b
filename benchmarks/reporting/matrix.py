"""Backbone x precision x backend: which artifacts have an accuracy, which a time, and which have both.

    entries = entries_of(results)        # of read_results
    cells = coverage(entries)            # {("resnet50", "tensorrt", "int8"): "", …}: "" is what was not run

An accuracy and a time stand in one entry where they are of the same file, by its sha256, and never otherwise: neither a
name nor a precision makes two files one. A row of before the checksum was kept is an entry of its own. A file whose
accuracy was measured at several input sizes (a checkpoint letterboxed, and at the images' ratio) is an entry for each.
An accuracy of some images of a split alone is shown as such, and is not what makes a combination measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mask2edge.benchmarks.accuracy_rows import METRICS
from mask2edge.benchmarks.loadgen_scenarios import SCENARIOS
from mask2edge.benchmarks.reporting.rows import Row, is_of_part, newest, newest_with
from mask2edge.export.backends import PRECISIONS
from mask2edge.runtime.segmenter import TASKS
from mask2edge.train.evaluation.task_evaluation import HEADLINE
from mask2edge.train.presets import BACKBONES

OURS = "mask2edge-"  # contenders of peers.csv that are ours
RANDOM = "random weights"  # peers.csv: all sides have the same, made up ones
WHOLE, APART = "accuracy and time", "accuracy and time of different files"
PART = "accuracy of a part"  # of a split's images
_LACKS = {
    "": "not run", "time": "a time, no accuracy", "accuracy": "an accuracy, no time", APART: APART,
    PART: "an accuracy of a part of the images alone",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One artifact on one machine."""

    artifact: str
    backbone: str  # "" where the row does not say
    size: str
    precision: str
    backend: str
    ops: str
    sha256: str  # "" where the row does not say
    accuracy: tuple[Row, ...] = ()  # one for each task and data set
    latency: Row | None = None
    network_ms: float | None = None
    total_ms: float | None = None
    memory: Row | None = None  # of a run with this engine alone, which may be another than that of the times
    memory_mb: float | None = None
    weights: str = ""  # what is to be known of them
    calibration: str = ""  # of int8, how its ranges were found; "" where no row says

    @property
    def bytes(self) -> tuple[float, Row] | None:
        for row in self.accuracy:
            size = row.number("bytes")
            if size is not None:
                return size, row
        return None

    @property
    def timed_size(self) -> str:
        """Of the input that the times are of; the engine may take others."""
        return self.latency.get("size") if self.latency else ""

    @property
    def state(self) -> str:
        """WHOLE, "accuracy", "time" or PART."""
        accuracy = any(not is_of_part(row) for row in self.accuracy)
        if accuracy and self.latency:
            return WHOLE
        return "accuracy" if accuracy else "time" if self.latency else PART


@dataclass
class _Artifact:
    """What the rows of one checksum say together."""

    accuracy: dict[str, list[Row]] = field(default_factory=dict)  # by input size
    latency: list[Row] = field(default_factory=list)


def entries_of(results: Mapping[str, Sequence[Row]]) -> list[Entry]:
    """In the order of backbone, size, backend and precision."""
    artifacts: dict[str, _Artifact] = {}
    entries = []
    for row in newest(results.get("accuracy", ())):
        if row.get("sha256"):
            of_size = artifacts.setdefault(row.get("sha256"), _Artifact()).accuracy
            of_size.setdefault(row.get("size"), []).append(row)
        else:
            entries.append(_entry("", [row], None))
    for row in newest(results.get("latency", ())):
        if row.get("sha256"):
            artifacts.setdefault(row.get("sha256"), _Artifact()).latency.append(row)
        else:
            entries.append(_entry("", [], row))
    for sha256, artifact in artifacts.items():
        for accuracy in artifact.accuracy.values() or [[]]:
            for row in artifact.latency or [None]:
                memory = newest_with("memory_peak_mb", results["latency"], row) if row else None
                entries.append(_entry(sha256, accuracy, row, memory))
    entries += [_of_peers(row) for row in newest(results.get("peers", ())) if row.get("contender").startswith(OURS)]
    return sorted(entries, key=_order)


def _entry(sha256: str, accuracy: Sequence[Row], latency: Row | None, memory: Row | None = None) -> Entry:
    about = accuracy[0] if accuracy else None
    # latency.csv has the engine's precision and operators behind its name, in which there may be blanks.
    name, precision, ops = (*(latency.get("engine") if latency else "").rsplit(" ", 2), "", "")[:3]
    # An engine that is named after its backbone alone was made of nothing else: of random weights (docs/latency.md).
    named = next((backbone for backbone in BACKBONES if name.startswith(f"{backbone}-")), "")
    return Entry(
        artifact=about.get("artifact") if about else name,
        backbone=about.get("backbone") if about else BACKBONES.get(named, ""),
        weights=RANDOM if named and not about else "",
        size=about.get("size") if about else latency.get("size") if latency else "",
        precision=about.get("precision") if about else precision,
        backend=about.get("backend") if about else _backend(latency),
        ops=about.get("ops") if about else ops,
        sha256=sha256,
        accuracy=tuple(accuracy),
        latency=latency,
        network_ms=latency.number("network_p50_ms") if latency else None,
        total_ms=latency.number("total_p50_ms") if latency else None,
        memory=memory,
        memory_mb=memory.number("memory_peak_mb") if memory else None,
        calibration=next(filter(None, (row.get("calibration") for row in (*accuracy, latency) if row)), ""),
    )


def _backend(latency: Row | None) -> str:
    """latency.csv names the version of what ran the engine, not what it was: on a machine with both it does not say."""
    if latency is None:
        return ""
    if latency.get("backend"):
        return latency.get("backend")
    found = [backend for backend in PRECISIONS if f"{backend}=" in latency.get("versions")]
    return found[0] if len(found) == 1 else ""


def _of_peers(row: Row) -> Entry:
    return Entry(
        artifact=row.get("contender"),
        backbone=BACKBONES.get(row.get("backbone"), row.get("backbone")),
        size=row.get("size"),
        precision=row.get("contender").removeprefix(OURS),
        backend="onnxruntime",
        ops="custom",
        sha256="",
        latency=row,
        network_ms=row.number("network_p50_ms"),
        memory=row,
        memory_mb=row.number("peak_memory_mb"),
        weights=RANDOM,
    )


def _order(entry: Entry) -> tuple[object, ...]:
    precisions = ("fp32", "fp16", "bf16", "int8")
    position = precisions.index(entry.precision) if entry.precision in precisions else len(precisions)
    names = list(BACKBONES.values())
    backbone = names.index(entry.backbone) if entry.backbone in names else len(names)
    size = tuple(int(length) for length in entry.size.split("-")[0].split("x") if length.isdigit())
    cpu = entry.latency.get("cpu") if entry.latency else ""
    return backbone, entry.backbone, size, cpu, entry.backend, position, entry.artifact


def coverage(entries: Sequence[Entry]) -> dict[tuple[str, str, str], str]:
    """(backbone, backend, precision), of all that can be built -> what there is of it: WHOLE, APART, "accuracy", "time"
    or "".
    """
    found = {}
    for backbone in dict.fromkeys(BACKBONES.values()):
        for backend, precisions in PRECISIONS.items():
            for precision in precisions:
                key = (backbone, backend, precision)
                states = {e.state for e in entries if (e.backbone, e.backend, e.precision) == key}
                both = WHOLE if WHOLE in states else APART if {"accuracy", "time"} <= states else ""
                found[key] = both or next((state for state in ("accuracy", "time", PART) if state in states), "")
    return found


def not_run(results: Mapping[str, Sequence[Row]], entries: Sequence[Entry]) -> list[str]:
    """Sentences, each of something that can be measured and that no row is of."""
    cells = coverage(entries)
    sentences = []
    seen = {backend for _, backend, _ in (key for key, state in cells.items() if state)}
    for backend in PRECISIONS:
        if backend not in seen:
            count = sum(key[1] == backend for key in cells)
            sentences.append(f"{backend}: none of its {count} combinations of backbone and precision{_how(backend)}.")
    backbones = dict.fromkeys(backbone for backbone, _, _ in cells)
    nothing = [name for name in backbones if not any(state for key, state in cells.items() if key[0] == name)]
    if nothing:
        sentences.append(f"No row of the backbones {', '.join(nothing)}.")
    for (backbone, backend, precision), state in cells.items():
        if backend in seen and backbone not in nothing and state != WHOLE:
            sentences.append(f"{backbone}, {precision}, {backend}: {_LACKS[state]}.")
    measured = {row.get("task") for row in results.get("accuracy", ())}
    for task in TASKS:
        if task not in measured:
            sentences.append(f"No artifact's accuracy in the task {task} ({HEADLINE[task]}).")
    if not any(row.get("boundary_AP") for row in results.get("accuracy", ())):
        sentences.append("No artifact's boundary AP (`accuracy.py --boundary`).")
    under_load = {row.get("scenario") for row in results.get("scenarios", ())}
    idle = [name for name in SCENARIOS if name not in under_load]
    if idle:
        sentences.append(f"No engine in MLPerf's scenarios {', '.join(idle)} (`latency.py ENGINE --scenario NAME`).")
    if not {row.get("machine") for rows in results.values() for row in rows} - {"x86_64", ""}:
        sentences.append("Nothing on a machine of another kind than x86_64: no aarch64 board has a row.")
    return sentences


def _how(backend: str) -> str:
    return "; `make gpu-check` on a machine with an NVIDIA GPU runs them" if backend == "tensorrt" else ""


def figures_of(row: Row) -> list[tuple[str, float]]:
    """(metric, value) of an accuracy row, in the order of METRICS."""
    found = ((name, row.number(name)) for name in METRICS)
    return [(name, value) for name, value in found if value is not None]
