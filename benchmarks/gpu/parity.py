"""Step `parity`: each TensorRT engine against ONNX Runtime on the CPU, with Polygraphy's comparator, on a photograph.

The bounds are on what a user sees, and on the logits behind it: relative L2, and the share of mask pixels whose sign
differs. Half precision moves masks near zero, and a flipped pixel moves every later layer, so no bound on single
numbers would mean anything there.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
from polygraphy.comparator import Comparator

from mask2edge.benchmarks.backends.differences import relative_l2
from mask2edge.benchmarks.backends.runners import SegmenterRunner
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.gpu.engines import RANDOM, SHIPPED, built_engines
from mask2edge.benchmarks.gpu.rows import RowFile
from mask2edge.benchmarks.timed_engine import noise
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import INPUT

# Relative L2 of the logits, and shares of pixels. fp32 multiplies in fp32 (no TF32), in another order than a CPU.
MOST_ERROR = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1}
MOST_FLIPPED = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2}
MOST_RELABELLED = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    for model in (SHIPPED, RANDOM):
        engines = built_engines(out, model)
        if not engines or engines[0].precision != "cpu":
            rows.failed(model, "the CPU's engine, which the others are compared with, was not built")
            continue
        with Segmenter.load(engines[0].folder) as reference:
            image = photograph(reference)
            for engine in engines[1:]:
                try:
                    with Segmenter.load(engine.folder) as segmenter:
                        compare(rows, model, engine.precision, reference, segmenter, image)
                except InputError as error:
                    rows.failed(f"{model} {engine.precision}", str(error))


def photograph(segmenter: Segmenter) -> np.ndarray:
    """uint8 [H, W, 3]: scikit-learn's china.jpg, or noise where that is not installed."""
    try:
        return read_image(sample_photograph())
    except InputError:
        _, height, width = segmenter.spec.profile.opt
        return noise(height, width)


def compare(
    rows: RowFile, model: str, precision: str, reference: Segmenter, segmenter: Segmenter, image: np.ndarray
) -> None:
    """Adds the rows of one engine."""
    what = f"{model} {precision}"
    pixels, prepared = reference.prepare([image])
    runners = [
        SegmenterRunner("onnxruntime", lambda: nullcontext(reference), pixels.shape),
        SegmenterRunner(what, lambda: nullcontext(segmenter), pixels.shape),
    ]
    results = Comparator.run(runners, data_loader=[{INPUT: pixels}])
    (_, expected), (_, found) = ((name, iterations[0]) for name, iterations in results)
    for name in ("class_logits", "mask_logits"):
        rows.bounded(f"{what} {name}, relative L2", relative_l2(found[name], expected[name]), MOST_ERROR[precision])
    flipped = float(np.mean((found["mask_logits"] >= 0) != (expected["mask_logits"] >= 0)))
    rows.bounded(f"{what} mask pixels that change sides", flipped, MOST_FLIPPED[precision])
    # The way that users take: on the device from the image to the masks, where that is possible.
    (wanted,) = reference.finish({name: expected[name] for name in expected}, prepared, "semantic")
    got = segmenter(image, task="semantic")
    relabelled = float(np.mean(got.label_map != wanted.label_map))
    rows.bounded(f"{what} image pixels labelled otherwise", relabelled, MOST_RELABELLED[precision])
