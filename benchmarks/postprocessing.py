"""Post-processing: the native library against Hugging Face's, and a network's time, on the same logits.

    python benchmarks/postprocessing.py --threads 2 --engine artifacts/peers/stock-r50-512x512/ours.engine --save
    python benchmarks/postprocessing.py --case synthetic-60 --task semantic --json

Logits are those of street-lite on a photograph, and synthetic ones of 100 queries and 133 classes, of which 15 or 60
are confident (synthetic_logits.py): masks of an input of 512x512 that holds an image of --size. All sides take turns.
"ratio" is Hugging Face's time / ours; "share" ours / the engine's network; "equal" the part of pixels whose labels are
those of the NumPy reference, which runs once, and "score_difference" the largest of any segment's. Hugging Face's masks
go to 384x384 first, so its labels are near ours, not the same.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.artifact import open_artifact
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.peers.huggingface_postprocessing import HuggingFacePostprocessing
from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.synthetic_logits import Logits, synthetic_logits
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError, command, positive_number, say
from mask2edge.runtime.images import read_image
from mask2edge.runtime.native_postprocess import NativePostprocess
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing
from mask2edge.trt_plugins import cpu_library, why_no_cpu_library

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "postprocessing.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "instruction_set", "case", "task", "order", "size",
    "runs", "native_p50_ms", "numpy_ms", "huggingface_p50_ms", "ratio", "engine", "network_p50_ms", "share", "equal",
    "score_difference",
)  # fmt: skip
CASES = ("street-lite", "synthetic-15", "synthetic-60")
OUTPUTS = {
    "semantic": ("semantic", "padded"), "semantic-image": ("semantic", "image"), "panoptic": ("panoptic", ""),
    "instance": ("instance", ""),
}  # fmt: skip
STREET_THINGS = {"sign", "car", "pedestrian", "bicyclist"}  # street-lite's labels do not say; panoptic output asks


@dataclasses.dataclass(frozen=True)
class Case:
    logits: Logits
    padded: tuple[int, int]
    content: tuple[int, int]
    spec: ModelSpec


def open_case(name: str, image: tuple[int, int], model: Path, photograph: Path | None) -> Case:
    """Logits whose content has the ratio of `image`, (H0, W0). Raises InputError."""
    if name == "street-lite":
        return _recorded(image, model, photograph)
    labels = tuple(Label(i, f"class {i}", i < 80, (i, i, i), i) for i in range(133))  # as many things as in COCO
    tasks = ("panoptic", "instance", "semantic")
    spec = ModelSpec("synthetic", labels, 100, Preprocessing((0,) * 3, (1,) * 3), Postprocessing(), tasks)
    scale = 512 / max(image)
    content = round(image[0] * scale), round(image[1] * scale)
    return Case(synthetic_logits(int(name.rpartition("-")[2])), (512, 512), content, spec)


def _recorded(image: tuple[int, int], model: Path, photograph: Path | None) -> Case:
    picture = read_image(photograph or sample_photograph())
    scale = min(picture.shape[0] / image[0], picture.shape[1] / image[1])
    height, width = max(1, int(image[0] * scale)), max(1, int(image[1] * scale))
    with open_artifact(model, threads=2) as segmenter:
        pixels, prepared = segmenter.prepare([cv2.resize(picture[:height, :width], (image[1], image[0]))])
        outputs = segmenter.session.run(pixels)
        spec = segmenter.spec.model
    labels = tuple(dataclasses.replace(x, is_thing=x.name.lower() in STREET_THINGS) for x in spec.labels)
    spec = dataclasses.replace(spec, labels=labels, tasks=("instance", "semantic"))
    logits = Logits(outputs["class_logits"][0], outputs["mask_logits"][0])
    return Case(logits, prepared[0].padded, prepared[0].content, spec)


def measure(
    case: Case, output: str, image: tuple[int, int], native: NativePostprocess, threads: int, runs: int,
    network: Callable[[], object] | None,
) -> dict[str, Any]:  # fmt: skip
    """One case and output, all sides in turns; cells of a side that is not there are empty."""
    task, order = OUTPUTS[output]
    rules = dataclasses.replace(case.spec.postprocessing, semantic_order=order or "padded")
    spec = dataclasses.replace(case.spec, postprocessing=rules)
    logits = case.logits.class_logits, case.logits.mask_logits  # [Q, K+1], [Q, h, w]
    arguments = (*logits, case.padded, case.content, image, spec)
    contenders = {"native": timed(lambda: getattr(native, task)(*arguments))}
    if network is not None:
        contenders["network"] = timed(network)
    try:
        stuff = {label.id for label in spec.labels if not label.is_thing}
        theirs = HuggingFacePostprocessing(stuff, rules.object_threshold, rules.overlap_threshold)
        _limit_torch(threads)
        contenders["huggingface"] = timed(lambda: theirs(task, *logits, image))
    except MissingPeer as reason:
        say(str(reason))
    times = interleave(contenders, runs=runs, warmup=1)
    medians = {side: summarize([t["ms"] for t in found])["p50"] for side, found in times.items()}
    start = time.perf_counter()
    expected = getattr(postprocess, task)(*arguments)
    reference_ms = (time.perf_counter() - start) * 1e3
    ours, peer, whole = (medians.get(side) for side in ("native", "huggingface", "network"))
    return {
        "task": task,
        "order": order,
        "native_p50_ms": ours,
        "numpy_ms": round(reference_ms, 3),
        "huggingface_p50_ms": peer or "",
        "ratio": round(peer / ours, 2) if peer else "",
        "network_p50_ms": whole or "",
        "share": round(ours / whole, 4) if whole else "",
    } | _compare(getattr(native, task)(*arguments), expected)


def _bound_network(segmenter: Segmenter) -> Callable[[], object]:
    """A run on noise, at the best size of the engine's profile."""
    count, height, width = segmenter.spec.profile.opt
    pixels = np.random.default_rng(0).normal(size=(count, 3, height, width)).astype(np.float32)  # [N, 3, H, W]
    return lambda: segmenter.session.run(pixels)


def _limit_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _compare(got: Segmentation, expected: Segmentation) -> dict[str, float]:
    equal = float(np.mean(got.label_map == expected.label_map))
    pairs = zip(got.segments, expected.segments, strict=False)
    difference = max((abs(one.score - other.score) for one, other in pairs), default=0.0)
    return {"equal": round(equal, 7), "score_difference": float(f"{difference:.2g}")}


def image_size(text: str) -> tuple[int, int]:
    """The type of --size: any size in pixels, height first."""
    height, _, width = text.partition("x")
    return positive_number(height), positive_number(width)


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Times post-processing: native, Hugging Face, and a network beside them.",
        epilog="example: python benchmarks/postprocessing.py --case synthetic-15 --task panoptic --threads 2",
    )
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; default: all")
    parser.add_argument("--task", action="append", choices=list(OUTPUTS), help="may be repeated; default: all")
    parser.add_argument("--size", type=image_size, default=(1080, 1920), metavar="HxW", help="of the image")
    parser.add_argument("--threads", type=positive_number, default=2)
    parser.add_argument("--runs", type=positive_number, default=9)
    parser.add_argument("--instruction-set", help="one that the library has; default: the best of this processor")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "street-lite.onnx", help="of street-lite")
    parser.add_argument("--image", type=Path, help="for street-lite; default: scikit-learn's china.jpg")
    parser.add_argument("--engine", type=Path, help="an engine of fixed size, of whose network's time ours is a share")
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    library = cpu_library()
    if library is None:
        raise InputError(why_no_cpu_library())
    native = NativePostprocess(library, arguments.threads, arguments.instruction_set)
    cv2.setNumThreads(arguments.threads)

    here, rows = machine.describe(), []
    packages = ("onnxruntime", "numpy", "opencv-python-headless", "torch", "transformers")
    common = {
        "date": machine.today(),
        "commit": machine.commit(),
        "machine": here["machine"],
        "cpu": here["cpu"],
        "threads": arguments.threads,
        "versions": "; ".join(f"{p} {here['versions'][p]}" for p in packages if p in here["versions"]),
        "instruction_set": arguments.instruction_set or native.instruction_sets[-1],
        "size": "x".join(map(str, arguments.size)),
        "runs": arguments.runs,
        "engine": arguments.engine.name if arguments.engine else "",
    }
    with contextlib.ExitStack() as stack:
        network = None
        if arguments.engine:
            segmenter = stack.enter_context(Segmenter.load(arguments.engine, threads=arguments.threads))
            network = _bound_network(segmenter)
        for name in arguments.case or CASES:
            case = open_case(name, arguments.size, arguments.model, arguments.image)
            for output in arguments.task or OUTPUTS:
                say(f"{name} {output} …")
                row = measure(case, output, arguments.size, native, arguments.threads, arguments.runs, network)
                rows.append({"case": name} | row)
                if arguments.save:
                    append_row(RESULTS, COLUMNS, common | rows[-1])
    if arguments.json:
        print(json.dumps({"postprocessing": rows, "machine": here} | common))
        return 0
    for row in rows:
        share = f", {row['share']:.1%} of the network's" if row["share"] else ""
        peer = f"{row['ratio']:.1f} times faster than Hugging Face's" if row["ratio"] else "no peer"
        print(
            f"{row['case']:13} {row['task']:9} {row['order']:7} {row['native_p50_ms']:8.2f} ms{share}; {peer}; NumPy "
            f"{row['numpy_ms']:.0f} ms; {row['equal']:.5%} equal, scores within {row['score_difference']:.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
