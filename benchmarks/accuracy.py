"""How right an artifact is on labelled images: the engine that ships, an ONNX file, or the checkpoint behind them.

    python benchmarks/accuracy.py artifacts/street-lite-fp16.engine --task semantic --data ../shared/data/camvid
    python benchmarks/accuracy.py artifacts/nuclei.engine --task all --data ../shared/data/dsb2018 --boundary

mIoU, AP by COCO's protocol, or PQ, at the images' original size; train/evaluation has the rules. Every kind of artifact
goes through the same preprocessing and post-processing, so that what differs is the network alone. Several tasks share
one pass of the network over the images, of which three are in memory at a time: one that is read, one that is
segmented, and one that is counted. An engine or ONNX file needs no torch. Figures are printed when every image has been
counted, and never of a part: an interrupted run prints and saves none. Rows of several tasks are saved together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks.accuracy_rows import COLUMNS, RESULTS, accuracy_row, bytes_of
from mask2edge.benchmarks.artifact import calibration_of, open_artifact, sha256_of_artifact
from mask2edge.benchmarks.progress import progress
from mask2edge.benchmarks.results_table import append_rows, recorded_command, require_appendable
from mask2edge.runtime.command_line import InputError, command, parse_size, positive_number, say
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, Dataset
from mask2edge.train.data.class_merging import merged, read_merge_table
from mask2edge.train.data.formats import FORMATS, default_split, find_named_split, open_dataset, recognise
from mask2edge.train.evaluation.task_evaluation import TaskEvaluation

ALL = "all"


def evaluate(
    segmenter: Segmenter,
    data: Dataset,
    tasks: Sequence[str],
    limit: int | None = None,
    boundary: bool = False,
) -> dict[str, dict[str, Any]]:
    """task -> {"metrics", "per_class"} over the first `limit` images (None: all). boundary: of instances, boundary AP
    too. Raises InputError."""
    model = segmenter.spec.model
    detections = model.postprocessing.instance_top_k
    evaluations = {task: TaskEvaluation(task, model.labels, data, detections, boundary) for task in tasks}

    def count(annotation: Annotation, results: Mapping[str, Segmentation]) -> None:
        for task, evaluation in evaluations.items():
            evaluation.add(annotation, results[task])

    # A thread each, so that order is kept; `counting` waits for the image before, so that none piles up.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as counter:
        images = images_counted(data, limit)
        reading = [reader.submit(data.__getitem__, index) for index in range(min(1, images))]
        counting: list[Future[None]] = []
        for index in progress(range(images), "images"):
            image, annotation = reading.pop().result()  # RGB [H, W, 3]
            if index + 1 < images:
                reading.append(reader.submit(data.__getitem__, index + 1))
            results = segmenter.for_tasks(np.ascontiguousarray(image[:, :, ::-1]), tasks)
            if counting:
                counting.pop().result()
            counting.append(counter.submit(count, annotation, results))
        for last in counting:
            last.result()
    return {
        task: {"metrics": evaluation.metrics(), "per_class": evaluation.per_class()}
        for task, evaluation in evaluations.items()
    }


def images_counted(data: Dataset, limit: int | None) -> int:
    return len(data) if limit is None else min(limit, len(data))


def chosen_tasks(text: str, segmenter: Segmenter) -> list[str]:
    """In the order given; of "all", all that the model does. Raises InputError."""
    names = segmenter.spec.model.tasks if text == ALL else text.split(",")
    return [segmenter.check_task(name) for name in names]


def open_data(root: Path, split: str | None, data_format: str = "auto", labels: Sequence[Label] = ()) -> Dataset:
    """The named split, else val, else the only one. `labels`: the model's; label images of instances carry no names
    of their own, and take these where they are of one thing, or of one and a background. Raises InputError.
    """
    kind = recognise(root) if data_format == "auto" else data_format
    named = [label.is_thing for label in labels] in ([True], [True, False])
    classes = [label.name for label in labels] if named else ()
    return open_dataset(root, split or default_split(root, kind), kind, classes)


def together(by_task: Mapping[str, dict[str, Any]], found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The JSON object of several tasks: no figure of one has the name of another's, so all are in "metrics" too."""
    common: dict[str, Any] = {}
    for own in by_task.values():
        common |= {name: value for name, value in own.items() if name not in ("metrics", "per_class")}
    metrics = {name: figure for own in found.values() for name, figure in own["metrics"].items()}
    return common | {"task": ",".join(by_task), "metrics": metrics, "tasks": dict(found)}


def report(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people: one per class and task, the figures last."""
    for own in result.get("tasks", {"": result}).values():
        for name, row in own["per_class"].items():
            yield f"{name:<28}" + "   ".join(_cell(*cell) for cell in row.items())
    count, whole = result["images"], result["images_in_split"]
    counted = f"{count} images" if count == whole else f"the first {count} of {whole} images"
    yield f"{result['artifact']} on {result['data']}, split {result['split']}, {counted}"
    if "detections" in result:
        yield f"COCO's protocol, at most {result['detections']} detections of an image"
    yield "   ".join(f"{name.replace('_', ' ')} {figure:.4f}" for name, figure in result["metrics"].items())


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return f"{name} absent"
    if name == "pixel_share":
        return f"{100 * value:5.1f} % of the labelled pixels"
    return f"{name} {value:5d}" if isinstance(value, int) else f"{name} {value:.4f}"


def _known_tasks(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in TASKS]:
        if text == ALL:
            return text
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(TASKS)}, or {ALL}, got {unknown[0]!r}")
    return ",".join(dict.fromkeys(names))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures an engine, ONNX file or checkpoint on labelled images.",
        epilog="example: python benchmarks/accuracy.py artifacts/street-lite-fp16.engine --task semantic "
        "--data ../shared/data/camvid --json",
    )
    parser.add_argument("artifact", type=Path, metavar="ENGINE|ONNX|CHECKPOINT")
    parser.add_argument(
        "--task",
        type=_known_tasks,
        required=True,
        metavar="TASK[,TASK…]",
        help=f"of {', '.join(TASKS)}; or {ALL} that the model does",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="may hold one split alone; or one COCO JSON"
    )
    parser.add_argument("--split", metavar="NAME", help="default: val, else the only one there is")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: recognised")
    parser.add_argument(
        "--merge",
        type=Path,
        metavar="FILE",
        help="of a model that was trained with merged classes: the table (JSON), or the training's TOML",
    )
    parser.add_argument("--limit", type=positive_number, metavar="N", help="the first N images alone")
    parser.add_argument(
        "--detections",
        type=positive_number,
        metavar="N",
        help="the most instances of an image that count; default: the model's own; COCO's is 100",
    )
    parser.add_argument("--boundary", action="store_true", help="of instances, boundary AP too")
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
    save = parser.add_mutually_exclusive_group()
    save.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    save.add_argument("--save-to", type=Path, metavar="CSV", help="append to a file of your own")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    named = TASKS if arguments.task == ALL else arguments.task.split(",")
    if arguments.detections and "instance" not in named:
        raise InputError(f"--detections: expected --task instance, where AP has such a limit, got {arguments.task}")
    if arguments.boundary and "instance" not in named:
        raise InputError(f"--boundary: expected --task instance, whose masks have an AP, got {arguments.task}")
    kind = recognise(arguments.data) if arguments.format == "auto" else arguments.format
    split = find_named_split(arguments.data, arguments.split or default_split(arguments.data, kind), kind)
    table = read_merge_table(arguments.merge) if arguments.merge else None
    results = RESULTS if arguments.save else arguments.save_to
    if results:
        require_appendable(results, COLUMNS)
    with ExitStack() as stack:
        segmenter = stack.enter_context(
            open_artifact(
                arguments.artifact,
                size=parse_size(arguments.size) if arguments.size else None,
                keep_ratio=arguments.keep_ratio,
                threads=arguments.threads,
                detections=arguments.detections,
            )
        )
        model, tasks = segmenter.spec.model, chosen_tasks(arguments.task, segmenter)
        for option in ("detections", "boundary"):
            if getattr(arguments, option) and "instance" not in tasks:  # of "all" that the model does
                raise InputError(f"--{option}: expected a model that does instances, got one for {', '.join(tasks)}")
        data = open_data(arguments.data, split, kind, model.labels)
        if table is not None:
            data = merged(data, table)
        # Now: the file may be built anew while its images are counted, and the figures are those of the old one.
        opened = {
            "sha256": sha256_of_artifact(arguments.artifact),
            "bytes": bytes_of(arguments.artifact),
            "calibration": calibration_of(arguments.artifact, segmenter.spec) or None,
        }
        say(f"{arguments.artifact}: {model.name}, {segmenter.spec.precision}, on {len(data)} images of {data.split}")
        found = evaluate(segmenter, data, tasks, arguments.limit, arguments.boundary)
    about = {
        "images": images_counted(data, arguments.limit),
        "artifact": str(arguments.artifact),
        **opened,
        "data": str(arguments.data),
        "split": data.split,
        "images_in_split": len(data),
    }
    detections = {"instance": {"detections": model.postprocessing.instance_top_k}}
    by_task = {task: own | about | {"task": task} | detections.get(task, {}) for task, own in found.items()}
    if results:
        typed = recorded_command("benchmarks/accuracy.py", sys.argv[1:] if argv is None else argv)
        rows = [accuracy_row(own, segmenter.spec, arguments.artifact, typed) for own in by_task.values()]
        append_rows(results, COLUMNS, rows)
        say(f"appended to {results}")
    result = by_task[tasks[0]] if len(tasks) == 1 else together(by_task, found)
    print(json.dumps(result) if arguments.json else "\n".join(report(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
