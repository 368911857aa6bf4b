"""What each part of the network costs in accuracy when it alone is int8, and what it gains in time.

    python benchmarks/int8_sensitivity.py --data ../shared/data/camvid --record
    python benchmarks/int8_sensitivity.py --data ../shared/data/camvid --methods --record

Accuracy: the shipped model on images of a data set; how many pixels get another label than in float32, and the mIoU.
Time: float32's and the group's engines in turns in one process, on any ONNX file (`--timed`): the median of the ratios.
`--methods` compares the methods of calibration on all groups instead. Needs no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.accuracy import open_data
from mask2edge.benchmarks.artifact import open_artifact
from mask2edge.benchmarks.progress import progress
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.timing import interleave, timed
from mask2edge.export.calibration_options import IMAGES, METHODS, calibration_images
from mask2edge.export.cpu_fusion import fuse_for_cpu
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.half_storage import metadata_of
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.quantization_groups import GROUPS, QUANTIZED, groups_of
from mask2edge.export.quantize import ONNXRUNTIME, Calibration, calibrated, quantized
from mask2edge.export.stage_comparison import noise
from mask2edge.runtime.command_line import InputError, command
from mask2edge.runtime.session_onnxruntime import MODEL_FILE, OnnxRuntimeSession
from mask2edge.runtime.spec import EngineSpec, ModelSpec
from mask2edge.train.data.annotation import semantic_map
from mask2edge.train.evaluation.class_match import match_classes
from mask2edge.train.evaluation.confusion_matrix import ConfusionMatrix
from mask2edge.train.evaluation.task_evaluation import NO_CLASS
from mask2edge.trt_plugins import OP_VERSION

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "int8_sensitivity.csv"
COLUMNS = (
    "date", "commit", "cpu", "versions", "model", "images", "calibration", "int8", "by_default", "labels_changed",
    "mIoU_fp32", "mIoU_int8", "timed", "threads", "time_ratio",
)  # fmt: skip
DEFAULT, EVERYTHING = "default", "everything"


@dataclass(frozen=True)
class Row:
    """`labels_changed`: share of all pixels; `time_ratio`: int8's time over float32's, None where it was not timed."""

    calibration: str
    int8: str  # a group, or DEFAULT, or EVERYTHING
    by_default: bool
    labels_changed: float
    mIoU_fp32: float
    mIoU_int8: float
    time_ratio: float | None


class Labels:
    """The label maps of one model on some images of a data set. Raises InputError where its classes are others."""

    def __init__(self, model: ModelSpec, data: Path, count: int) -> None:
        self.data = open_data(data, None)
        self._match = match_classes(model.labels, self.data, "semantic")
        step = max(1.0, len(self.data) / count)
        self.indices = [int(index * step) for index in range(min(count, len(self.data)))]

    def of(self, proto: onnx.ModelProto, folder: Path, threads: int) -> list[np.ndarray]:
        file = folder / "labels.onnx"
        onnx.save(fuse_for_cpu(proto), file)
        with open_artifact(file, threads=threads) as segmenter:
            images = (np.ascontiguousarray(self.data.image(index)[:, :, ::-1]) for index in self.indices)
            return [segmenter(image, task="semantic").label_map for image in images]

    def miou(self, found: Sequence[np.ndarray]) -> float:
        matrix = ConfusionMatrix(len(self._match.counted))
        for index, labels in zip(self.indices, found, strict=True):
            annotation = self._match.translate(self.data.annotation(index))
            matrix.add(semantic_map(annotation, NO_CLASS), labels, NO_CLASS)
        return matrix.metrics()["mIoU"]


def time_ratios(calibration: Calibration, choices: Sequence[Set[str]], threads: int, runs: int) -> list[float]:
    """For each choice of groups, the median over rounds of its time on noise by float32's in the same round.

    Two networks at a time: twenty in one round were seen to differ by 40 % where their graphs were the same.
    """
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        full = timed(network_run(fuse_for_cpu(calibration.proto), Path(name), threads))
        for groups in progress(choices, "timed"):
            proto = fuse_for_cpu(quantized(calibration, ONNXRUNTIME, groups))
            with tempfile.TemporaryDirectory() as folder:
                int8 = timed(network_run(proto, Path(folder), threads))
                times = interleave({"fp32": full, "int8": int8}, runs=runs, warmup=1)
            pairs = zip(times["int8"], times["fp32"], strict=True)
            ratios.append(float(np.median([run["ms"] / base["ms"] for run, base in pairs])))
    return ratios


def network_run(proto: onnx.ModelProto, folder: Path, threads: int) -> Callable[[], object]:
    """Of ONNX Runtime, on noise [N, 3, H, W]."""
    about = Description.from_metadata(metadata_of(proto), "the graph")
    spec = EngineSpec(
        model=about.spec, profile=about.profile, backend="onnxruntime", backend_version="", precision=about.precision,
        ops=about.ops, op_library_version=OP_VERSION,
    )  # fmt: skip
    onnx.save(proto, folder / MODEL_FILE)
    session, pixels = OnnxRuntimeSession(folder, spec, threads), noise(*about.profile.opt)
    return lambda: session.run(pixels)


def measure(arguments: argparse.Namespace) -> list[Row]:
    proto = onnx.load(arguments.model)
    about = Description.from_metadata(metadata_of(proto), str(arguments.model))
    labels = Labels(about.spec, arguments.data, arguments.images)
    images = calibration_images(arguments.data / "train", IMAGES)
    methods = METHODS if arguments.methods else METHODS[:1]
    calibrations = {method: calibrated(proto, images, method) for method in progress(methods, "calibrations")}
    first = calibrations[methods[0]]
    present = set(groups_of(Dataflow(first.proto)).values())
    choices = [(method, DEFAULT, QUANTIZED) for method in methods]
    if not arguments.methods:
        names = [group.name for group in GROUPS if group.name in present]
        choices += [(methods[0], name, frozenset({name})) for name in names]
        choices.append((methods[0], EVERYTHING, frozenset(names)))
    ratios: Sequence[float | None] = [None] * len(choices)
    if arguments.timed:
        few = calibrated(onnx.load(arguments.timed), images[:1], "min-max")  # ranges decide no time
        ratios = time_ratios(few, [groups for _, _, groups in choices], arguments.threads, arguments.runs)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = labels.of(first.proto, folder, arguments.threads)
        full = labels.miou(expected)
        for (method, int8, groups), ratio in zip(progress(choices, "choices"), ratios, strict=True):
            found = labels.of(quantized(calibrations[method], ONNXRUNTIME, groups), folder, arguments.threads)
            changed = np.mean([np.mean(a != b) for a, b in zip(expected, found, strict=True)])
            rows.append(
                Row(
                    calibrations[method].origin,
                    int8,
                    groups <= QUANTIZED,
                    round(float(changed), 5),
                    round(full, 4),
                    round(labels.miou(found), 4),
                    None if ratio is None else round(ratio, 3),
                )
            )
            if arguments.record:
                _record(arguments, len(labels.indices), rows[-1])
    return rows


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Measures what each part of the network costs and gains as int8.",
        epilog="example: python benchmarks/int8_sensitivity.py --data ../shared/data/camvid --images 24",
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "street-lite.onnx", help="whose labels count")
    parser.add_argument("--data", type=Path, required=True, help="a data set of the model's classes, train and val")
    parser.add_argument("--images", type=int, default=24, help="how many to label, evenly spaced (default: 24)")
    parser.add_argument("--timed", type=Path, metavar="ONNX", help="the network to time; default: none is timed")
    parser.add_argument("--runs", type=int, default=7, help="of each network in turns (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--methods", action="store_true", help="compare the methods of calibration, not the groups")
    parser.add_argument("--record", action="store_true", help=f"append the rows to {RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    for name in ("images", "runs", "threads"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name}: expected 1 or more, got {getattr(arguments, name)}")
    rows = measure(arguments)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "machine": machine.describe()}))
    else:
        print("\n".join(table(rows)))
    return 0


def table(rows: Sequence[Row]) -> list[str]:
    lines = [f"{'int8':<20}{'calibration':<24}{'labels changed':>15}{'mIoU':>9}{'fp32':>9}{'time':>8}"]
    for row in rows:
        ratio = "-" if row.time_ratio is None else f"{row.time_ratio:.3f}"
        lines.append(
            f"{row.int8:<20}{row.calibration:<24}{row.labels_changed:>14.3%}{row.mIoU_int8:>10.4f}"
            f"{row.mIoU_fp32:>9.4f}{ratio:>8}"
        )
    return lines


def _record(arguments: argparse.Namespace, images: int, row: Row) -> None:
    versions = machine.package_versions()
    described = {
        "date": machine.today(),
        "commit": machine.commit(),
        "cpu": machine.cpu_model(),
        "versions": "; ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "onnx", "numpy")),
        "model": arguments.model.name,
        "images": images,
        "timed": arguments.timed.name if arguments.timed else "",
        "threads": arguments.threads,
    }
    append_row(RESULTS, COLUMNS, described | asdict(row))


if __name__ == "__main__":
    sys.exit(main())
