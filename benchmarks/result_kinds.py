"""What each file of benchmarks/results holds: which columns are figures, which way is better, and what is noise.

    kind = kind_of(rows[0], "peers.csv")
    kind.key(row)                    # what a row is of: ("x86_64", "AMD EPYC", "2", "r50", "512x512", "mask2edge-fp32")
    kind.figures["ratio"].loss(0.55, 0.60)       # 0.0909…: nine hundredths worse

A row's key is all of it but figures, when and by whom it was measured, and how often. Times and memory are figures
without a bound: they belong to a machine and its other guests, where a ratio of two sides that took turns does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mask2edge.benchmarks.accuracy_rows import METRICS
from mask2edge.runtime.command_line import InputError

RATIO_NOISE = 0.03  # of a ratio of medians of interleaved runs
ACCURACY_NOISE = 0.001  # a tenth of a point
# Never part of what a row is of: when, by whom, how often, and which bytes exactly.
ABOUT = ("date", "commit", "versions", "runs", "steps", "command", "sha256", "checkpoint_sha256")
UNBOUND = re.compile(r"(_ms|_mb|seconds_p50|throughput|_difference|_per_s)$")  # figures that no bound is set for


@dataclass(frozen=True)
class Figure:
    better: str  # "lower" or "higher"
    bound: float  # the most that is noise
    relative: bool = False  # the bound is a part of the base's figure; else in the figure's own unit

    def loss(self, base: float, new: float) -> float:
        """How much worse `new` is, in the bound's unit; negative: better."""
        worse = new - base if self.better == "lower" else base - new
        if not self.relative:
            return worse
        return worse / abs(base) if base else (0.0 if new == base else float("inf") if worse > 0 else -float("inf"))


def _falls(bound: float = RATIO_NOISE) -> Figure:
    return Figure("lower", bound, relative=True)


def _rises(bound: float = RATIO_NOISE) -> Figure:
    return Figure("higher", bound, relative=True)


@dataclass(frozen=True)
class Kind:
    name: str  # of the file, without .csv
    title: str
    marks: tuple[str, ...]  # columns by which a file of any name is recognised
    figures: Mapping[str, Figure]
    others: tuple[str, ...] = ()  # figures without a bound, besides UNBOUND
    not_key: tuple[str, ...] = ()  # where a row's figures do not depend on them
    bound_rows: Callable[[Mapping[str, str]], bool] = field(default=lambda row: True)  # the others are a peer's

    def is_figure(self, column: str) -> bool:
        return column in self.figures or column in self.others or UNBOUND.search(column) is not None

    def key_columns(self, row: Mapping[str, str]) -> list[str]:
        left_out = {*ABOUT, *self.not_key}
        return [column for column in row if column not in left_out and not self.is_figure(column)]

    def key(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """Of the columns in the row's order."""
        return tuple(row[column] for column in self.key_columns(row))


_METRICS = {name: Figure("higher", ACCURACY_NOISE) for name in METRICS}

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "accuracy", "Accuracy of artifacts on labelled images", ("artifact", "task", "split"),
            _METRICS | {"bytes": _falls()},
            # Masks are the same on every machine, but for rounding; older rows do not say how int8 was calibrated.
            not_key=("machine", "cpu", "calibration"),
        ),
        Kind(
            "latency", "Time of engines", ("engine", "total_p50_ms", "batch"),
            {"ratio": _falls(), "ratio_to_first": _falls()},
            others=("drift", "cpu_share", "power_w", "temperature_max_c", "gpu_clock_min_mhz"),
            not_key=("calibration", "cores"),  # older rows say neither
        ),
        Kind(
            "scenarios", "Engines by MLPerf LoadGen", ("scenario", "measures"), {},
            others=("verdict", "result", "queries", "samples", "settings", "loadgen", "cpu_share", "power_w",
                    "temperature_max_c", "gpu_clock_min_mhz"),
            not_key=("calibration", "cores"),  # older rows say neither
        ),
        Kind(
            "peers", "The network in every CPU runtime, in turns", ("contender", "ratio_of_fastest"),
            {"ratio": _falls()}, others=("ratio_q1", "ratio_q3", "ratio_of_fastest"),
            bound_rows=lambda row: row["contender"].startswith("mask2edge"),
        ),
        Kind(
            "area_sweep", "The network over input sizes, with the floor", ("floor_ratio",), {"ratio": _falls()},
            others=("floor_ratio", "gflop", "gemm_gflop_per_s"),
        ),
        Kind("kernels", "The custom operators against stock subgraphs", ("op", "fused_p50_ms"), {"ratio": _rises()}),
        Kind(
            "postprocessing", "Logits to masks against Hugging Face's", ("huggingface_p50_ms",),
            {"ratio": _rises(), "equal": Figure("higher", ACCURACY_NOISE)}, others=("share", "score_difference"),
        ),
        Kind(
            "pipeline", "Image file to label map against torch eager", ("torch_p50_ms", "mode"),
            {"ratio": _falls(), "stream_to_loop": _falls(), "agreement": Figure("higher", ACCURACY_NOISE)},
            others=("serial_share",),
        ),
        Kind(
            "session_settings", "ONNX Runtime's settings against those that the runtime sets", ("setting",), {},
            others=("network_ratio", "total_ratio"),
        ),
        Kind(
            "training_cost", "A training step, and the loss's memory", ("reference_seconds_p50",),
            {"ratio": _falls(), "memory_ratio": _falls()}, others=("peak_mb", "reference_peak_mb"),
        ),
        Kind(
            "int8_sensitivity", "What each part of the network costs in int8", ("labels_changed",),
            {"mIoU_int8": Figure("higher", ACCURACY_NOISE), "labels_changed": Figure("lower", ACCURACY_NOISE),
             "time_ratio": _falls()},
            others=("mIoU_fp32",),
        ),
        Kind(
            "precision_islands", "What each fp32 island is worth", ("error_half", "kept"), {},
            others=("error_fp32", "error_half", "ratio"), not_key=("machine", "cpu"),  # older rows name none
        ),
        Kind(
            "overfit", "COCO images learned by heart", ("digest", "segments", "classes"),
            {"PQ": Figure("higher", 0.02)}, others=("SQ", "RQ", "PQ_things", "PQ_stuff"),
            not_key=("cpu", "artifact_sha256"),  # a training ends a little elsewhere on another CPU
        ),
        Kind(
            "ablations", "The paper's ablations, run by run", ("row", "seed", "settings"), {},
            others=("seconds_per_step", *METRICS), not_key=("cpu",),  # one short run bounds nothing: seeds differ more
        ),
        Kind(
            "gate-base", "Figures of the shipped models that no clock is in", ("label_agreement", "multiply_adds"),
            {"label_agreement": Figure("higher", 0.002), "multiply_adds": _falls(0.0), "nodes": _falls(0.0),
             "bytes": _falls()},
            not_key=("machine", "cpu"),  # nothing is timed: .ci/run holds another CPU's figures against these
        ),
    )
}  # fmt: skip


def kind_of(columns: Mapping[str, str], where: str) -> Kind:
    """By the marks; `where` is for the message. Raises InputError for a file of none of the kinds."""
    for kind in KINDS.values():
        if all(mark in columns for mark in kind.marks):
            return kind
    raise InputError(f"{where}: expected the columns of one of {', '.join(KINDS)}; got {', '.join(columns) or 'none'}")
