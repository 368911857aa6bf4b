"""What each fp32 island of a typed graph is worth: the error with it and without it, on real weights and images.

    python benchmarks/precision_islands.py --data ../shared/data/camvid --record

The typed graph is emulated on ONNX Runtime's CPU (export/emulation.py) and compared with the float32 graph, stage by
stage, every decoder layer attending by the float32 graph's masks: the sign of a mask logit decides what a layer sees,
and one flip would drown what is measured. The backbone stays in float32 here, because its own rounding, which no island
changes, is several times that of all that follows. Needs no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.progress import progress
from mask2edge.benchmarks.results_table import append_rows
from mask2edge.export.dataflow import Dataflow
from mask2edge.export.emulation import emulated
from mask2edge.export.half_storage import metadata_of, store_full
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.precision import typed_graph
from mask2edge.export.precision_islands import ISLANDS, LEFT_IN_HALF
from mask2edge.export.stage_comparison import INJECTED, decides, runner, with_injected_masks, with_stage_outputs
from mask2edge.runtime.command_line import InputError, command, say
from mask2edge.runtime.images import read_image
from mask2edge.runtime.preprocess import preprocess
from mask2edge.trt_plugins import onnxruntime_ops_library

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "precision_islands.csv"
COLUMNS = (
    "date", "commit", "versions", "model", "ops", "images", "precision", "group", "kept", "where", "error_fp32",
    "error_half", "ratio", "machine", "cpu",
)  # fmt: skip
BACKBONE_IN_FULL = {"backbone.*": "fp32"}
HALVES = ("fp16", "bf16")


@dataclass(frozen=True)
class Row:
    """`ratio`: error_half / error_fp32 where it is largest, that is with the group in half and in fp32."""

    ops: str
    precision: str
    group: str
    kept: bool  # an island of the table; else one of what is left in half
    where: str
    error_fp32: float
    error_half: float
    ratio: float


class Meter:
    """The float32 graph's stages on some images, and how far a typed graph is from them."""

    def __init__(self, proto: onnx.ModelProto, pixels: Sequence[np.ndarray]) -> None:
        self.proto = store_full(proto)
        self.pixels = pixels
        run = runner(with_stage_outputs(self.proto))
        self.expected = [run({"pixels": x}) for x in pixels]
        self.stages = [name for name in self.expected[0] if not name.startswith("backbone.")]
        self.places = list(dict.fromkeys(map(place, self.stages)))

    def typed(self, precision: str, overrides: Mapping[str, str]) -> onnx.ModelProto:
        return emulated(typed_graph(self.proto, precision, overrides))

    def errors(self, proto: onnx.ModelProto) -> dict[str, float]:
        """Place -> root mean square of the error over that of the values, masks injected."""
        injected = with_injected_masks(proto)
        inputs = {value.name for value in injected.graph.input}
        run = runner(injected)
        squared = dict.fromkeys(self.stages, 0.0)
        scale = dict.fromkeys(self.stages, 0.0)
        for pixels, expected in zip(self.pixels, self.expected, strict=True):
            masks = {INJECTED + name: value for name, value in expected.items() if decides(name)}
            found = run({"pixels": pixels, **{name: value for name, value in masks.items() if name in inputs}})
            for name in self.stages:
                squared[name] += float(np.square(found[name] - expected[name], dtype=np.float64).mean())
                scale[name] += float(np.square(expected[name], dtype=np.float64).mean())
        shares = {name: squared[name] / scale[name] for name in self.stages}
        return {
            where: float(np.sqrt(np.mean([shares[name] for name in self.stages if place(name) == where])))
            for where in self.places
        }

    def rows(self, precision: str) -> list[Row]:
        """One for each group that the graph has."""
        ops = Description.from_metadata(metadata_of(self.proto), "the graph").ops
        flow = Dataflow(self.proto)
        plan = self.errors(self.typed(precision, BACKBONE_IN_FULL))
        rows = []
        for group in progress([g for g in (*ISLANDS, *LEFT_IN_HALF) if g.members(flow)], f"groups in {precision}"):
            kept = group in ISLANDS
            # The backbone's entry comes last and wins: its norms and additions stay in fp32 whatever the group says.
            other = self.errors(self.typed(precision, {group.name: precision if kept else "fp32", **BACKBONE_IN_FULL}))
            full, half = (plan, other) if kept else (other, plan)
            ratios = {where: half[where] / full[where] for where in self.places}
            where = max(ratios, key=lambda name: ratios[name])
            rows.append(Row(ops, precision, group.name, kept, where, full[where], half[where], round(ratios[where], 3)))
        return rows


def place(stage: str) -> str:
    """Stages of one kind are taken together: "decoder.3.mask_logits" is one of "layers' masks"."""
    if stage.startswith("pixel_decoder.level"):
        return "levels"
    kinds = {
        "fine": "mask features", "mask_logits": "layers' masks", "queries": "queries", "proposal_logits": "proposals",
    }  # fmt: skip
    return kinds[stage.split(".")[-1]] if "." in stage else stage


def pictures(folder: Path | None, count: int) -> list[Path]:
    """`count` images of a folder, evenly spaced, or scikit-learn's two photographs. Raises InputError."""
    if folder is None:
        found = find_spec("sklearn")
        places = list(found.submodule_search_locations or []) if found else []
        photographs = [
            Path(place) / "datasets/images" / name for place in places for name in ("china.jpg", "flower.jpg")
        ]
        if not photographs:
            raise InputError("expected scikit-learn's photographs, which is not installed; name a folder with --data")
        return photographs[:count]
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not files:
        raise InputError(f"--data: expected a folder of images, or with one called val, got {folder}")
    return files[:: max(1, len(files) // count)][:count]


def meter_of(model: Path, images: Sequence[Path]) -> Meter:
    """For an ONNX file of export/to_onnx.py, at its usual size."""
    proto = onnx.load(model)
    description = Description.from_metadata(metadata_of(proto), str(model))
    rules, profile = description.spec.preprocessing, description.profile
    return Meter(proto, [preprocess(read_image(path), rules, profile).pixels for path in images])


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Measures what each fp32 island of a typed graph is worth.",
        epilog="example: python benchmarks/precision_islands.py --data ../shared/data/camvid --images 8",
    )
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files; default: the shipped street-lite, both kinds")
    parser.add_argument("--data", type=Path, help="a folder of images; default: scikit-learn's two photographs")
    parser.add_argument("--images", type=int, default=8, help="how many of them (default: 8)")
    parser.add_argument("--record", action="store_true", help=f"append the rows to {RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.images < 1:
        raise InputError(f"--images: expected 1 or more, got {arguments.images}")
    folder = arguments.data / "val" if arguments.data and (arguments.data / "val").is_dir() else arguments.data
    images = pictures(folder, arguments.images)
    rows = []
    for model in arguments.models or shipped():
        say(f"{model}: {len(images)} images")
        meter = meter_of(model, images)
        for precision in HALVES:
            rows += meter.rows(precision)
            if arguments.record:
                _record(model, len(images), [row for row in rows if row.precision == precision])
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "machine": machine.describe()}))
    else:
        print("\n".join(table(rows)))
    return 0


def shipped() -> list[Path]:
    """Raises InputError where the custom operators cannot run and nothing else is asked for."""
    models = [ROOT / "models" / f"street-lite{kind}.onnx" for kind in ("", "-standard")]
    return models if onnxruntime_ops_library() is not None else models[1:]


def table(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"{'ops':<9}{'type':<6}{'group':<18}{'kept':<6}{'where it shows':<16}{'in fp32':>9}{'in half':>9}{'ratio':>7}"
    ]
    for row in rows:
        lines.append(
            f"{row.ops:<9}{row.precision:<6}{row.group:<18}{'fp32' if row.kept else 'half':<6}{row.where:<16}"
            f"{row.error_fp32:>9.1e}{row.error_half:>9.1e}{row.ratio:>7.2f}"
        )
    return lines


def _record(model: Path, images: int, rows: Sequence[Row]) -> None:
    here = machine.describe()
    versions = here["versions"]
    described: dict[str, Any] = {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": here["machine"],
        "cpu": here["cpu"],
        "versions": "; ".join(
            f"{name} {versions[name]}" for name in ("onnxruntime", "onnx", "numpy") if name in versions
        ),
        "model": model.name,
        "images": images,
    }
    append_rows(RESULTS, COLUMNS, [described | asdict(row) for row in rows])


if __name__ == "__main__":
    sys.exit(main())
