"""The whole way on real photographs: checkpoint -> engine -> masks -> figures, each step as one would type it.

    python benchmarks/demo.py                       # or: make demo
    python benchmarks/demo.py --image street.jpg

Writes overlays/ and contact_sheet.jpg to artifacts/demo/ and prints what each step did and how long it took. Steps
whose result is there already, made from the same checkpoint, are skipped; --fresh runs them again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from mask2edge.benchmarks.artifact import sha256_of_artifact
from mask2edge.benchmarks.contact_sheet import contact_sheet
from mask2edge.runtime.command_line import InputError, command, say, sha256_of, whole_file, whole_folder
from mask2edge.runtime.images import IMAGE_SUFFIXES, read_image
from mask2edge.runtime.spec import EngineSpec, SpecError
from mask2edge.train.data.formats import default_split
from mask2edge.train.data.semantic_folder import SemanticFolder

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = Path("models/street-lite.safetensors")
DATA = Path("../shared/data/camvid")
OUT = Path("artifacts/demo")
MOST_DATA_IMAGES = 6


class StepFailed(Exception):
    """A command of the demo ended with another exit code than 0; the command itself said why."""

    def __init__(self, step: str, exit_code: int) -> None:
        super().__init__(f"step {step} failed with exit code {exit_code}")
        self.exit_code = exit_code


@dataclass
class Demo:
    """The steps' commands, times and figures. Paths are relative to the project's root, where the commands run."""

    fresh: bool = False
    rows: list[tuple[str, float, str]] = field(default_factory=list)  # step, seconds, figure

    def run(self, step: str, script: str, *arguments: str) -> str:
        """Runs `python script arguments`, progress shown, and returns its stdout. Raises StepFailed."""
        print(f"\n$ python {script} {shlex.join(arguments)}", flush=True)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        if done.returncode:
            print(done.stdout, end="")
            raise StepFailed(f"{step} (python {script})", done.returncode)
        self.rows.append((step, time.perf_counter() - start, ""))
        return done.stdout

    def figure(self, text: str) -> None:
        """What the last step gave."""
        step, seconds, _ = self.rows[-1]
        self.rows[-1] = (step, seconds, text)

    def skip(self, step: str, text: str) -> None:
        self.rows.append((step, 0.0, f"{text} (up to date)"))

    def engine(self, checkpoint: Path) -> Path:
        """Step: checkpoint -> ONNX with the custom ops -> engine, which the shipped checkpoint is the default of."""
        engine = Path("artifacts") / f"{checkpoint.stem}-fp16.engine"
        digest = sha256_of(ROOT / checkpoint)
        if not self.fresh and engine_is_of(ROOT / engine, digest):
            self.skip("build", str(engine))
            return engine
        named = () if checkpoint == CHECKPOINT else (str(checkpoint),)
        self.run("build", "export/build_engine.py", *named, "--fp16")
        spec = EngineSpec.load(ROOT / engine)
        self.figure(f"{engine}, {spec.backend}, {spec.precision}, {spec.ops} ops, {_folder_mb(ROOT / engine):.1f} MB")
        return engine

    def segment(self, engine: Path, photographs: Path) -> list[dict[str, Any]]:
        """Step: overlays and label maps of every photograph; those of an earlier run go first."""
        for folder in ("overlays", "semantic"):
            shutil.rmtree(ROOT / OUT / folder, ignore_errors=True)
        output = self.run("segment", "runtime/segment.py", str(engine), str(photographs), "--out", str(OUT), "--json")
        images = json.loads(output)["images"]
        total = sum(image[f"{part}_ms"] for image in images for part in ("preprocess", "network", "postprocess"))
        self.figure(f"{len(images)} images, {total / len(images):.0f} ms each")
        return images

    def accuracy(self, engine: Path, data: Path) -> None:
        """Step: mIoU of the engine, kept in accuracy.json."""
        kept = ROOT / OUT / "accuracy.json"
        result = None if self.fresh else kept_accuracy(kept, sha256_of_artifact(ROOT / engine), data)
        if result is None:
            arguments = (str(engine), "--task", "semantic", "--data", str(data), "--json")
            output = self.run("accuracy", "benchmarks/accuracy.py", *arguments)
            with whole_file(kept) as temporary:
                temporary.write_text(output, encoding="utf-8")
            self.figure(accuracy_figure(json.loads(output)))
        else:
            self.skip("accuracy", accuracy_figure(result))

    def latency(self, engine: Path, image: Path) -> None:
        arguments = (str(engine), "--image", str(image), "--seconds", "5", "--json")
        result = json.loads(self.run("latency", "benchmarks/latency.py", *arguments))
        p50 = {step: result[f"{step}_ms"]["p50"] for step in ("total", "network", "preprocess", "postprocess")}
        parts = ", ".join(f"{name} {p50[name]:.0f}" for name in ("preprocess", "network", "postprocess"))
        self.figure(f"p50 {p50['total']:.0f} ms at {result['size']} ({parts}), {result['throughput']:.1f} images/s")

    def table(self) -> str:
        width = max(len(step) for step, _, _ in self.rows)
        lines = [f"{'step':<{width}}  {'time':>8}  figure"]
        lines += [f"{step:<{width}}  {seconds:>6.1f} s  {figure}" for step, seconds, figure in self.rows]
        return "\n".join(lines)


def engine_is_of(engine: Path, checkpoint_sha256: str) -> bool:
    """Whether the folder is a whole engine, made from that checkpoint, that this machine can run."""
    from mask2edge.trt_plugins import onnxruntime_ops_library

    try:
        spec = EngineSpec.load(engine)
        spec.verify_files(engine)
    except SpecError:
        return False
    # An engine of standard ops from before the native library was built is worth building again, and the other way too.
    ops = "standard" if onnxruntime_ops_library() is None else "custom"
    return spec.checkpoint_sha256 == checkpoint_sha256 and spec.ops == ops


def kept_accuracy(path: Path, engine_sha256: str, data: Path) -> dict[str, Any] | None:
    """What an earlier run measured with the same engine and data, or None."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        same = (result["sha256"], result["data"]) == (engine_sha256, str(data))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None


def accuracy_figure(result: dict[str, Any]) -> str:
    metrics = "mIoU {mIoU:.3f}, pixel accuracy {pixel_accuracy:.3f}".format(**result["metrics"])
    return f"{metrics} on {result['images']} images ({result['split']})"


def gather_photographs(image: Path | None, data: Path | None, folder: Path) -> list[Path]:
    """Copies the image (None: scikit-learn's china.jpg) and some of the data set's into `folder`, in that order.

    Raises InputError.
    """
    chosen = [sample_photograph() if image is None else image]
    if not chosen[0].is_file():
        raise InputError(f"--image: expected an image file, got {str(image)!r}, which is not there")
    if chosen[0].suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"--image: expected a name that ends in one of {', '.join(IMAGE_SUFFIXES)}, got {image}")
    if data is not None:
        pairs = SemanticFolder(data, default_split(data, "semantic")).pairs
        count = min(MOST_DATA_IMAGES, len(pairs))  # spread over the split: neighbours look alike
        chosen += [pairs[i * len(pairs) // count][0] for i in range(count)]
    with whole_folder(folder) as temporary:
        copies = [f"{number}-{path.name}" for number, path in enumerate(chosen)]
        for path, name in zip(chosen, copies, strict=True):
            shutil.copyfile(path, temporary / name)
    return [folder / name for name in copies]


def sample_photograph() -> Path:
    """china.jpg of scikit-learn, found without importing it. Raises InputError."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "datasets" / "images" / "china.jpg"
        if path.is_file():
            return path
    raise InputError(
        "expected scikit-learn's china.jpg, which is not installed; pip install scikit-learn, or --image FILE"
    )


def write_contact_sheet(images: Sequence[dict[str, Any]], engine: Path, path: Path) -> None:
    """From segment.py's report of each image."""
    rows = [(Path(i["source"]).name, read_image(ROOT / i["source"]), read_image(ROOT / i["overlay"])) for i in images]
    sheet = contact_sheet(rows, EngineSpec.load(engine).model.labels)
    with whole_file(path) as temporary:
        cv2.imwrite(str(temporary), sheet)


def _folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Checkpoint to masks on real photographs, step by step.",
        epilog="example: python benchmarks/demo.py --image street.jpg",
    )
    parser.add_argument("--image", type=Path, help="default: scikit-learn's china.jpg")
    parser.add_argument("--data", type=Path, help=f"labelled images of the model's classes; default: {DATA}, if there")
    parser.add_argument("--checkpoint", type=Path, help=f"default: {CHECKPOINT}")
    parser.add_argument("--fresh", action="store_true", help="make again what is up to date")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    checkpoint = arguments.checkpoint.resolve() if arguments.checkpoint else CHECKPOINT
    if not (ROOT / checkpoint).is_file():
        raise InputError(
            f"{checkpoint}: expected the shipped checkpoint, which is not there; "
            "train one with `python train/train.py --config street-lite`, or name another with --checkpoint"
        )
    data = arguments.data.resolve() if arguments.data else (DATA if (ROOT / DATA).is_dir() else None)
    demo, start = Demo(arguments.fresh), time.perf_counter()
    try:
        photographs = gather_photographs(arguments.image, data and ROOT / data, ROOT / OUT / "photographs")
        engine = demo.engine(checkpoint)
        images = demo.segment(engine, OUT / "photographs")
        sheet = OUT / "contact_sheet.jpg"
        write_contact_sheet(images, ROOT / engine, ROOT / sheet)
        if data is not None:
            demo.accuracy(engine, data)
        demo.latency(engine, photographs[0].relative_to(ROOT))
    except StepFailed as failure:
        say(f"error: {failure}")
        return failure.exit_code
    print(f"\n{demo.table()}\n\nlook at {sheet} and {OUT / 'overlays'}/   ({time.perf_counter() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
