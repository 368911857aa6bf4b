"""A few COCO panoptic images, learned by heart: do format, loss, matching, export and post-processing agree?

    python benchmarks/overfit.py --data ../shared/data/coco_panoptic_mini
    python benchmarks/overfit.py --data ../shared/data/coco_panoptic_mini --set train.steps=800 --save

Takes the first images of the train split, trains on them and nothing else, builds the engine, and measures its PQ on
the same images at their original size. A mistake in any of these steps keeps PQ low, however long it trains. Says
nothing about images that were not seen. Stop at any time: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.results_table import append_row, recorded_command
from mask2edge.benchmarks.training_process import STOPPED, has_ended, run_training
from mask2edge.runtime.command_line import InputError, command, positive_number, say, sha256_of, whole_folder
from mask2edge.train.config import Config, load_config
from mask2edge.train.data.coco_panoptic import CocoPanoptic
from mask2edge.train.run_folder import LAST_FILE, METRICS_FILE, STATE_FILE
from mask2edge.train.train import parse_overrides

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "overfit.csv"
COLUMNS = (
    "date", "commit", "cpu", "versions", "config", "digest", "data", "images", "segments", "classes", "size", "steps",
    "artifact", "artifact_sha256", "PQ", "SQ", "RQ", "PQ_things", "PQ_stuff",
    "command",
)  # fmt: skip
SPLITS = ("train", "val")  # the same images


def first_images(source: CocoPanoptic, count: int, folder: Path) -> CocoPanoptic:
    """A data set of the first `count` images, as train and as val: links to the files, JSON of its own.

    Raises InputError where the split has fewer.
    """
    if len(source) < count:
        raise InputError(f"--images: expected at most {len(source)}, as many as {source.split} has, got {count}")
    chosen = {name for name, _, _ in source.entries[:count]}
    data = json.loads(source.json_path.read_text(encoding="utf-8"))
    data["images"] = [image for image in data["images"] if image["file_name"] in chosen]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [row for row in data["annotations"] if row["image_id"] in ids]
    with whole_folder(folder) as temporary:
        for split in SPLITS:
            maps = temporary / "annotations" / f"panoptic_{split}"
            maps.mkdir(parents=True)
            maps.with_suffix(".json").write_text(json.dumps(data), encoding="utf-8")
            (temporary / split).mkdir()
            for picture, map_name, _ in source.entries[:count]:
                os.symlink((source.image_folder / picture).resolve(), temporary / split / picture)
                os.symlink((source.map_folder / map_name).resolve(), maps / map_name)
    return CocoPanoptic(folder, "train")


def train(config: str, overrides: Sequence[str], data: Path, run: Path, steps: int) -> Path:
    """The checkpoint after the last step, trained unless it is there. Raises KeyboardInterrupt where it was stopped."""
    if not has_ended(run / METRICS_FILE, steps):
        resume = ["--resume"] if (run / STATE_FILE).is_file() else []
        chosen = ["--set", *overrides] if overrides else []
        code = run_training(["--config", config, "--data", str(data), "--out", str(run), *chosen, *resume])
        if code in STOPPED:
            raise KeyboardInterrupt
        if code != 0:
            raise InputError("the training failed; its message is above")
    return run / LAST_FILE  # not the best: nothing is chosen by the figure that is reported


def output_of(script: str, *arguments: str) -> str:
    """Stdout of one of our commands. Raises InputError where it fails: it has said why."""
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"{script} failed with exit code {done.returncode}; its message is above")
    return done.stdout


def measure(config: Config, checkpoint: Path, data: Path, engine: Path) -> dict[str, Any]:
    """accuracy.py's JSON of the fp32 engine at the training's crop, which is built anew."""
    size = "x".join(map(str, config.data.crop))
    output_of("export/build_engine.py", str(checkpoint), "--fp32", "--size", size, "--out", str(engine))
    accuracy = ("benchmarks/accuracy.py", str(engine), "--task", "panoptic", "--data", str(data), "--json")
    return json.loads(output_of(*accuracy)) | {"size": size, "checkpoint_sha256": sha256_of(checkpoint)}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Learns a few COCO panoptic images by heart and measures the engine on them.",
        epilog="example: python benchmarks/overfit.py --data ../shared/data/coco_panoptic_mini --save",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="COCO panoptic, with a train split")
    parser.add_argument("--images", type=positive_number, default=40, metavar="N", help="default: %(default)s")
    parser.add_argument("--config", default="coco-overfit", metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="train.steps=800")
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/overfit"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    config = load_config(arguments.config, parse_overrides(arguments.set))
    source = CocoPanoptic(arguments.data, "train")
    folder = arguments.out / f"{config.digest()[:8]}-{arguments.images}"  # of other settings: another folder
    chosen = first_images(source, arguments.images, folder / "data")
    segments = [annotation.label_ids[~annotation.crowd] for annotation in map(chosen.annotation, range(len(chosen)))]
    classes = len({label for ids in segments for label in ids.tolist()})
    say(f"{len(chosen)} images, {sum(map(len, segments))} segments of {classes} classes; working in {folder}")
    checkpoint = train(arguments.config, arguments.set, chosen.root, folder / "run", config.train.steps)
    result = measure(config, checkpoint, chosen.root, folder / f"{config.name}-fp32.engine")
    result |= {"images": len(chosen), "segments": sum(map(len, segments)), "classes": classes}
    result |= {"steps": config.train.steps, "config": config.name, "digest": config.digest()[:12]}
    if arguments.save:
        typed = recorded_command("benchmarks/overfit.py", sys.argv[1:] if argv is None else argv)
        append_row(RESULTS, COLUMNS, row(result, arguments.data) | {"command": typed})
        say(f"appended to {RESULTS}")
    metrics = "   ".join(f"{name} {figure:.4f}" for name, figure in result["metrics"].items())
    print(json.dumps(result) if arguments.json else f"{metrics}\nseen in training: says nothing about other images")
    return 0


def row(result: dict[str, Any], data: Path) -> dict[str, Any]:
    """Of benchmarks/results/overfit.csv."""
    versions = machine.package_versions()
    described = {
        "date": machine.today(),
        "commit": machine.commit(),
        "cpu": machine.cpu_model(),
        "versions": "; ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime") if name in versions),
        "data": data.resolve().name,
        "artifact": Path(result["artifact"]).name,
        "artifact_sha256": result["sha256"],
    }
    figures = {name: f"{result['metrics'][name]:.4f}" for name in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")}
    same = ("config", "digest", "images", "segments", "classes", "size", "steps")
    return described | {name: result[name] for name in same} | figures


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # between two steps: leave as with Ctrl-C
    sys.exit(main())
