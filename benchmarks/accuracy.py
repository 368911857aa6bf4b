"""How right an artifact is on labelled images: the engine that ships, an ONNX file, or the checkpoint behind them.

    python benchmarks/accuracy.py artifacts/street-lite-fp16.engine --task semantic --data ../shared/data/camvid

mIoU and pixel accuracy come from one confusion matrix over the data set, at the images' original size, without ignored
pixels (semantic_metrics.py has the rule). Every kind of artifact goes through the same preprocessing and
post-processing, so that what differs is the network alone. An engine or ONNX file needs no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks.artifact import open_artifact, sha256_of_artifact
from mask2edge.benchmarks.progress import progress
from mask2edge.benchmarks.semantic_metrics import ConfusionMatrix
from mask2edge.runtime.command_line import InputError, command, parse_size, positive_number, say
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import semantic_map
from mask2edge.train.data.semantic_folder import SemanticFolder, default_split, splits

TASKS = ("semantic", "instance", "panoptic")
FORMATS = ("auto", "semantic")
Segment = Callable[[np.ndarray], np.ndarray]  # BGR uint8 [H, W, 3] -> int32 class ids [H, W]


def evaluate_semantic(
    segment: Segment, data: SemanticFolder, labels: Sequence[Label], limit: int | None
) -> dict[str, Any]:
    """{"metrics", "per_class", "images"} over the first `limit` images (None: all). Raises InputError."""
    check_labels(labels, data)
    matrix = ConfusionMatrix(len(labels))
    count = len(data) if limit is None else min(limit, len(data))
    for index in progress(range(count), "images"):
        image, annotation = data[index]  # RGB [H, W, 3]
        prediction = segment(np.ascontiguousarray(image[:, :, ::-1]))  # [H, W]
        matrix.add(semantic_map(annotation, data.ignore), prediction, data.ignore)
    return {
        "metrics": matrix.metrics(),
        "per_class": matrix.per_class([label.name for label in labels]),
        "images": count,
    }


def check_labels(labels: Sequence[Label], data: SemanticFolder) -> None:
    """Raises InputError unless the data's classes are the model's by name and in order: an index means no more."""
    ours, theirs = [_plain(label.name) for label in labels], [_plain(name) for name in data.class_names]
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        difference = f"the model has {len(ours)} classes, classes.txt {len(theirs)}"
    else:
        place = next(i for i, (our, their) in enumerate(zip(ours, theirs, strict=True)) if our != their)
        difference = (
            f"class {place} is {labels[place].name!r} in the model and {data.class_names[place]!r} in classes.txt"
        )
    raise InputError(
        f"{data.root}: expected labels in the model's classes ({_first([label.name for label in labels])}); "
        f"{difference}; use data of the same classes, or a model trained on these"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())  # "traffic light" is "Traffic_Light"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def open_data(root: Path, split: str | None) -> SemanticFolder:
    """The named split, else val, else the only one. Raises InputError."""
    if not root.is_dir():
        raise InputError(f"--data: expected a folder, got {str(root)!r}, which is not there")
    found = splits(root)
    if split is not None and found and split not in found:
        raise InputError(f"--split: {root} holds {', '.join(found)}, got {split!r}")
    return SemanticFolder(root, split or default_split(root))


def report(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people: one per class, the figures last."""
    for name, row in result["per_class"].items():
        iou = "absent" if row["IoU"] is None else f"{row['IoU']:.4f}"
        yield f"{name:<24} IoU {iou:>7}   {100 * row['pixel_share']:5.1f} % of the labelled pixels"
    yield f"{result['artifact']} on {result['data']}, split {result['split']}, {result['images']} images"
    yield "mIoU {mIoU:.4f}   pixel accuracy {pixel_accuracy:.4f}".format(**result["metrics"])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures an engine, ONNX file or checkpoint on labelled images.",
        epilog="example: python benchmarks/accuracy.py artifacts/street-lite-fp16.engine --task semantic "
        "--data ../shared/data/camvid --json",
    )
    parser.add_argument("artifact", type=Path, metavar="ENGINE|ONNX|CHECKPOINT")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="may hold one split alone")
    parser.add_argument("--split", metavar="NAME", help="default: val, else the only one there is")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: recognised")
    parser.add_argument("--limit", type=positive_number, metavar="N", help="the first N images alone")
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="a checkpoint's input, letterboxed as a fixed-size engine does it; default: its own",
    )
    parser.add_argument(
        "--keep-ratio",
        action="store_true",
        help="a checkpoint at its shortest and longest edge, as a dynamic engine does it",
    )
    parser.add_argument("--threads", type=positive_number, metavar="N", help="default: the backend's own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.task != "semantic":
        raise InputError(
            f"--task {arguments.task}: only semantic is measured so far; AP and PQ come with a later version"
        )
    data = open_data(arguments.data, arguments.split)
    with ExitStack() as stack:
        size = parse_size(arguments.size) if arguments.size else None
        segmenter = stack.enter_context(
            open_artifact(arguments.artifact, size=size, keep_ratio=arguments.keep_ratio, threads=arguments.threads)
        )
        model = segmenter.spec.model
        say(f"{arguments.artifact}: {model.name}, {segmenter.spec.precision}, on {len(data)} images of {data.split}")
        result = evaluate_semantic(
            lambda image: segmenter(image, task="semantic").label_map, data, model.labels, arguments.limit
        )
    result |= {
        "artifact": str(arguments.artifact),
        "sha256": sha256_of_artifact(arguments.artifact),
        "task": arguments.task,
        "data": str(arguments.data),
        "split": data.split,
    }
    print(json.dumps(result) if arguments.json else "\n".join(report(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
