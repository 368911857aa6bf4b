"""An image file to its label map, all of it: our runtime against the same model in torch eager.

    python benchmarks/pipeline.py --threads 2                            # the shipped checkpoint, one photograph
    python benchmarks/pipeline.py --image a.jpg --image b.png --save
    python benchmarks/pipeline.py --stream --data ../shared/data/camvid  # images/s over a stream of files
    python benchmarks/pipeline.py --stream --no-torch --engine E --image photos/  # the stream against a plain loop
    python benchmarks/pipeline.py --stream --no-torch --overlays --image photos/  # both draw and encode what they found

torch's side reads the file as OpenCV does, resizes, normalises, runs the checkpoint's plain model, and post-processes
as the reference does, every mask at full size (peers/reference_postprocessing.py). Both letterbox into the same input,
take turns, and have to agree on almost every pixel before they are timed. "ratio" is ours / torch's, of medians.

--stream also sets the stream against a plain loop with the same threads; each has the session that is the faster for
it. The serial share is how much of what could overlap does not: 0 where an image costs no more than the loop's slowest
step, 1 where it costs their sum.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.own_engine import fresh_engine
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.timing import Run, interleave, summarize
from mask2edge.runtime.command_line import InputError, command, positive_number, say
from mask2edge.runtime.images import find_images, read_image
from mask2edge.runtime.preprocess import content_size
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import ImageSession
from mask2edge.runtime.spec import EngineSpec
from mask2edge.runtime.stream import STEPS, stream

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "models" / "street-lite.safetensors"
RESULTS = Path(__file__).resolve().parent / "results" / "pipeline.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "instruction_set", "threads", "versions", "engine", "files", "mode", "runs",
    "ours_p50_ms", "torch_p50_ms", "ratio", "agreement", "image_size", "stream_to_loop", "serial_share",
)  # fmt: skip
STREAM_FILES = 24
LOOP, STREAM, TORCH = "mask2edge", "mask2edge-stream", "torch-eager"
WRITE = "write_ms"  # with --overlays, after STEPS
LEAST_AGREEMENT = 0.995  # of the pixels: rounding decides a few at borders
LabelMap = Callable[[Path], np.ndarray]  # an image file -> int [H0, W0]


class TorchPipeline:
    """A checkpoint's plain model in torch eager, with the reference's post-processing; semantic output."""

    def __init__(self, checkpoint: Path, spec: EngineSpec, threads: int) -> None:
        """Raises InputError without torch, or where the checkpoint is none."""
        try:
            import torch

            from mask2edge.train.checkpoint import load_model
        except ImportError as error:
            raise InputError(f"torch's side cannot be imported ({error}); pip install 'mask2edge[bench]'") from error
        torch.set_num_threads(threads)
        self._model, _ = load_model(checkpoint)
        self._spec = spec
        rules = spec.model.preprocessing
        self._mean = torch.tensor(rules.mean).view(3, 1, 1)
        self._std = torch.tensor(rules.std).view(3, 1, 1)

    def __call__(self, path: Path) -> np.ndarray:
        """Class ids, int64 [H0, W0]."""
        import torch
        from torch.nn import functional

        from mask2edge.benchmarks.peers.reference_postprocessing import Geometry, semantic

        image = cv2.imread(str(path))  # [H0, W0, 3] BGR
        size, padded = image.shape[:2], self._spec.profile.opt[1:]
        content = content_size(size, self._spec.model.preprocessing, self._spec.profile)
        shrinks = content[0] < size[0] or content[1] < size[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = image if size == content else cv2.resize(image, content[::-1], interpolation=method)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(resized[:, :, ::-1])).permute(2, 0, 1).float()  # [3, h, w]
            pixels = (pixels - self._mean) / self._std
            pixels = functional.pad(pixels, (0, padded[1] - content[1], 0, padded[0] - content[0]))[
                None
            ]  # [1, 3, H, W]
            output = self._model(pixels)
            geometry = Geometry(padded, content, size)
            order = self._spec.model.postprocessing.semantic_order
            return semantic(output["class_logits"][0], output["mask_logits"][0], geometry, order).numpy()


def our_pipeline(segmenter: Segmenter) -> LabelMap:
    """One file at a time, as `segment.py` does it."""
    return lambda path: segmenter(read_image(path), "semantic").label_map


def our_stream(segmenter: Segmenter, files: Sequence[Path], overlays: bool = False) -> list[np.ndarray]:
    """The label map of each file; the steps of one overlap with those of the next. Raises a file's InputError."""
    found = []
    for frame in stream(segmenter, files, "semantic"):
        if frame.error is not None or frame.result is None:
            raise frame.error or InputError(f"{frame.source}: no result")
        found.append(frame.result.label_map)
        if overlays and frame.image is not None:
            write_overlay(frame.result, frame.image)
    return found


def write_overlay(result: Segmentation, image: np.ndarray) -> None:
    """Draws and encodes, into memory: a disk's speed is not the runtime's."""
    cv2.imencode(".jpg", result.draw(image))


def our_steps(segmenter: Segmenter, files: Sequence[Path], overlays: bool = False) -> Run:
    """The plain loop, each step timed: milliseconds per image, of STEPS and in all ("ms")."""
    steps = (*STEPS, WRITE) if overlays else STEPS

    def run() -> dict[str, float]:
        times = dict.fromkeys(steps, 0.0)
        for path in files:
            marks = [time.perf_counter()]
            image = read_image(path)
            marks.append(time.perf_counter())
            pixels, prepared = segmenter.prepare([image])
            marks.append(time.perf_counter())
            outputs = segmenter.session.run(pixels)
            marks.append(time.perf_counter())
            (result,) = segmenter.finish(outputs, prepared, "semantic")
            marks.append(time.perf_counter())
            if overlays:
                write_overlay(result, image)
                marks.append(time.perf_counter())
            for step, before, after in zip(steps, marks[:-1], marks[1:], strict=True):
                times[step] += 1000 * (after - before) / len(files)
        return {**times, "ms": sum(times.values())}

    return run


def serial_share(stream_ms: float, steps_ms: Sequence[float]) -> float:
    """Of the time that overlapping could save, the share that it does not; above 1 the stream is the slower one."""
    could_save = sum(steps_ms) - max(steps_ms)
    return round((stream_ms - max(steps_ms)) / could_save, 4) if could_save else 0.0


def overlap(times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The stream against the plain loop, of medians: ratio, steps in milliseconds, serial share."""
    steps = {step: statistics.median(one[step] for one in times[LOOP]) for step in times[LOOP][0] if step != "ms"}
    streamed = statistics.median(one["ms"] for one in times[STREAM])
    looped = statistics.median(one["ms"] for one in times[LOOP])
    return {
        "stream_to_loop": round(streamed / looped, 4),
        "steps_ms": {step: round(value, 3) for step, value in steps.items()},
        "serial_share": serial_share(streamed, list(steps.values())),
    }


def check_agreement(ours: LabelMap, theirs: LabelMap, files: Sequence[Path]) -> float:
    """The share of equal pixels, of the worst file. Raises InputError below LEAST_AGREEMENT."""
    shares = {path: float(np.mean(ours(path) == theirs(path))) for path in files}
    worst = min(shares, key=lambda path: shares[path])
    if shares[worst] < LEAST_AGREEMENT:
        raise InputError(
            f"{worst}: expected both sides to agree on {LEAST_AGREEMENT:.1%} of the pixels, got {shares[worst]:.2%}; "
            "compare an engine with the checkpoint that it was built from, at its size"
        )
    return round(shares[worst], 6)


def timed(passes: Callable[[], object], files: int) -> Run:
    """Milliseconds per image of one pass over all files."""

    def run() -> dict[str, float]:
        start = time.perf_counter()
        passes()
        return {"ms": 1000 * (time.perf_counter() - start) / files}

    return run


def choose_files(images: Sequence[Path], data: Path | None, most: int) -> list[Path]:
    """Those named; the first of a data set's val split; else a photograph that comes with scikit-learn."""
    if images:
        return find_images([str(path) for path in images])[:most]
    if data is None:
        return [sample_photograph()]
    folder = next((data / name for name in ("val", "images/val") if (data / name).is_dir()), data)
    return find_images([str(folder)])[:most]


def most_frequent_size(files: Sequence[Path]) -> str:
    """HxW."""
    return "x".join(map(str, statistics.mode(read_image(path).shape[:2] for path in files)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON object: ratio, per-image milliseconds and images/s of each side. Raises InputError."""
    if not (arguments.no_torch and arguments.engine) and not arguments.checkpoint.is_file():
        raise InputError(f"{arguments.checkpoint}: no such file; name a checkpoint, the engine's own if there is one")
    threads = arguments.threads or machine.describe()["cores"]
    files = choose_files(arguments.image, arguments.data, STREAM_FILES if arguments.stream else 4)
    engine = arguments.engine or fresh_engine(
        arguments.checkpoint, Path("artifacts") / "benchmarks" / f"{arguments.checkpoint.stem}-fp32.engine"
    )
    segmenter = Segmenter.load(engine, threads=threads)
    segmenter.check_task("semantic")
    if not arguments.no_torch and not segmenter.spec.profile.is_fixed_size:
        raise InputError(f"{engine}: expected a fixed size, which torch's side can match, got a dynamic engine")
    ours = our_pipeline(segmenter)
    runs = {LOOP: timed(lambda: [ours(path) for path in files], len(files))}
    agreement = None
    if not arguments.no_torch:
        theirs = TorchPipeline(arguments.checkpoint, segmenter.spec, threads)
        agreement = check_agreement(ours, theirs, files[:4])
        runs[TORCH] = timed(lambda: [theirs(path) for path in files], len(files))
    if arguments.stream:
        streaming = Segmenter.load(engine, threads=threads, streaming=True)
        runs[STREAM] = timed(lambda: our_stream(streaming, files, arguments.overlays), len(files))
        on_device = isinstance(segmenter.session, ImageSession) and segmenter.session.on_device
        if arguments.overlays and on_device:
            raise InputError(f"{engine}: --overlays: expected an engine for the CPU, got a GPU's")
        if not on_device:
            runs[LOOP] = our_steps(segmenter, files, arguments.overlays)
    say(f"timing {len(runs)} in turns, {len(files)} files each: {', '.join(runs)}")
    times = interleave(runs, arguments.runs, warmup=1)
    found = {name: summarize([one["ms"] for one in side]) for name, side in times.items()}
    ours_p50 = found[STREAM if arguments.stream else LOOP]["p50"]
    against_torch = (
        {
            "ratio": round(ours_p50 / found[TORCH]["p50"], 4),
            "times_faster": round(found[TORCH]["p50"] / ours_p50, 3),
            "agreement": agreement,
        }
        if TORCH in found
        else {}
    )
    return {
        **against_torch,
        "mode": "stream with overlays" if arguments.overlays else "stream" if arguments.stream else "single",
        "ms_per_image": found,
        "images_per_s": {name: round(1000 / side["p50"], 3) for name, side in found.items()},
        **(overlap(times) if STREAM in times and STEPS[0] in times[LOOP][0] else {}),
        "engine": str(engine),
        "files": len(files),
        "image_size": most_frequent_size(files),
        "runs": arguments.runs,
        "threads": threads,
        "machine": machine.describe() | {"instruction_set": machine.instruction_set()},
    }


def row(result: dict[str, Any]) -> dict[str, Any]:
    """The line of benchmarks/results/pipeline.csv."""
    described, found = result["machine"], result["ms_per_image"]
    return {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": described["machine"],
        "cpu": described["cpu"],
        "instruction_set": " ".join(described["instruction_set"]),
        "threads": result["threads"],
        "versions": " ".join(f"{name}={version}" for name, version in described["versions"].items()),
        "engine": Path(result["engine"]).name,
        "files": result["files"],
        "mode": result["mode"],
        "runs": result["runs"],
        "ours_p50_ms": found.get(STREAM, found[LOOP])["p50"],
        "torch_p50_ms": found[TORCH]["p50"] if TORCH in found else "",
        **{
            name: result.get(name, "")
            for name in ("ratio", "agreement", "image_size", "stream_to_loop", "serial_share")
        },
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"file to label map, ms per image over {result['files']} files, {result['runs']} runs"
    for name, side in result["ms_per_image"].items():
        yield f"  {name:<18}{side['p50']:>9.1f}{result['images_per_s'][name]:>9.2f} images/s"
    if "serial_share" in result:
        steps = ", ".join(f"{step.removesuffix('_ms')} {value:.1f}" for step, value in result["steps_ms"].items())
        yield f"stream / plain loop {result['stream_to_loop']:.3f}, serial share {result['serial_share']:.2f}"
        yield f"  steps of the loop, ms: {steps}"
    if "times_faster" in result:
        yield f"{result['times_faster']:.2f} times faster than torch; {result['agreement']:.4%} of the pixels alike"
    yield machine.one_line(result["machine"])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Times image file to label map, ours against torch eager with the reference's post-processing.",
        epilog="example: python benchmarks/pipeline.py --image street.jpg --threads 2",
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: the shipped street-lite")
    parser.add_argument("--engine", type=Path, help="of that checkpoint; default: built in fp32")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="may be repeated")
    source.add_argument("--data", type=Path, metavar="DIR", help="a semantic folder: its first val images")
    parser.add_argument(
        "--stream", action="store_true", help="many files, the runtime's overlapping stream against torch"
    )
    parser.add_argument("--no-torch", action="store_true", help="with --stream: against a plain loop of ours alone")
    parser.add_argument("--overlays", action="store_true", help="with --no-torch: draw and encode overlays as well")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="of each; default: the number of cores")
    parser.add_argument("--runs", type=positive_number, default=9, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.no_torch and not arguments.stream:
        raise InputError("--no-torch: expected with --stream, whose other side is a plain loop; got it alone")
    if arguments.overlays and not arguments.no_torch:
        raise InputError("--overlays: expected with --stream --no-torch, since torch's side draws none; got it without")
    result = measure(arguments)
    if arguments.save:
        append_row(RESULTS, COLUMNS, row(result))
        say(f"appended to {RESULTS}")
    print(json.dumps(result) if arguments.json else "\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
