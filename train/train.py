"""Trains a model: python train/train.py --config street-lite --data ../shared/data/camvid"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mask2edge.runtime.command_line import EXIT_BAD_INPUT, InputError, command, say
from mask2edge.runtime.spec import Label, ModelSpec, Preprocessing
from mask2edge.train.checkpoint import load_checkpoint, load_initial_weights
from mask2edge.train.config import Config, load_config
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.cached import Cached
from mask2edge.train.data.class_merging import merged, read_merge_table
from mask2edge.train.data.coco_categories import find_split
from mask2edge.train.data.coco_instances import CocoInstances
from mask2edge.train.data.formats import open_dataset, recognise, splits
from mask2edge.train.data.relabelled import for_tasks
from mask2edge.train.data.semantic_folder import SemanticMaps
from mask2edge.train.distributed import Processes, joined
from mask2edge.train.evaluation.task_evaluation import TaskEvaluation
from mask2edge.train.loop import Outcome, Pictures, Validation, train
from mask2edge.train.model.backbones.imagenet_weights import load_imagenet_weights
from mask2edge.train.model.mask2former import Mask2Former, build_model
from mask2edge.train.optimizer import freeze
from mask2edge.train.presets import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD, usual_size
from mask2edge.train.run_folder import BEST_FILE, LAST_FILE, METRICS_FILE, STATE_FILE
from mask2edge.train.samples import SamplePictures
from mask2edge.train.step import check_batch
from mask2edge.train.validation import validate

PROBED = 16  # images of each split that are read before a run starts, evenly spread
EXAMPLE = """example:
  python train/train.py --config street-lite --data ../shared/data/camvid --set train.steps=100
  python train/train.py --config street-lite --data ../shared/data/camvid --set train.steps=100 --resume"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Train a model; Ctrl-C saves, --resume goes on as if it had not been stopped.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="a name in train/configs, or a TOML file")
    parser.add_argument("--data", required=True, type=Path, help="the data set's folder, with a train split")
    parser.add_argument("--out", type=Path, help="folder of the run (default: artifacts/<name of the config>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="train.steps=100")
    arguments = parser.parse_args(argv)
    with joined() as processes:
        try:
            return run(arguments, processes)
        except InputError:
            if processes.is_main:
                raise
            return EXIT_BAD_INPUT  # the same on every process, and the main one says it


def run(arguments: argparse.Namespace, processes: Processes) -> int:
    """The exit code, on every process. Raises InputError on all of them where one meets it."""
    with processes.together(), processes.speaking_once():
        config = with_merge_table(load_config(arguments.config, parse_overrides(arguments.set)))
        check_batch(config.train, processes.size)
        out = arguments.out or Path("artifacts") / config.name
        check_out(out, arguments.resume)
        model = initial_model(config, restored=arguments.resume)  # before the data, which may take a minute to parse
        training, validation_data = open_data(config, arguments.data)
        spec = build_spec(config, training.labels)
        if validation_data is not None:
            check_evaluation(spec, validation_data)
    with processes.together():  # after every process has seen that there was nothing
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {out} cannot be made ({error.strerror}); name another folder") from error
    validation: Validation | None = None
    pictures: Pictures | None = None
    if validation_data is not None:
        pictures = SamplePictures(validation_data, spec)
        validation = lambda model, stop: validate(model, validation_data, spec, stop)  # noqa: E731
    if processes.is_main:
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        crops = f"{config.train.batch_size} crops" + (f" on {processes.size} processes" if processes.size > 1 else "")
        say(
            f"{config.name}: {parameters:.1f} M parameters, {len(training)} training images, "
            f"{config.train.steps} steps of {crops}; writing to {out}"
        )
    outcome = train(config, spec, model, training, validation, out, arguments.resume, processes, pictures)
    if processes.is_main:
        report(outcome, config, out)
    return 0 if outcome.signal is None else 128 + outcome.signal


def report(outcome: Outcome, config: Config, out: Path) -> None:
    if outcome.signal is not None:
        say(f"stopped at step {outcome.step} of {config.train.steps} and saved; repeat the command with --resume")
        return
    scored = "" if outcome.best is None else f", best score {outcome.best:.4f}"
    say(f"done: {outcome.step} steps{scored}")
    print(out / (LAST_FILE if outcome.best is None else BEST_FILE))


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """["train.steps=100"] -> {"train.steps": "100"}. Raises InputError."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise InputError(f"--set: expected KEY=VALUE such as train.steps=100, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def with_merge_table(config: Config) -> Config:
    """data.merge in the place of data.merge_file: a file that was edited is then another setting, as in --resume."""
    if not config.data.merge_file:
        return config
    table = {name: tuple(members) for name, members in read_merge_table(Path(config.data.merge_file)).items()}
    return replace(config, data=replace(config.data, merge=table, merge_file=""))


def check_out(out: Path, resume: bool) -> None:
    """Raises InputError where a new run would write over another one, or there is none to resume."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: expected a folder, got the file {out}")
    if resume and not (out / STATE_FILE).is_file():
        raise InputError(f"--resume: {out / STATE_FILE} is not there; expected the folder of a started run (--out)")
    started = [name for name in (STATE_FILE, LAST_FILE, BEST_FILE, METRICS_FILE) if (out / name).exists()]
    if started and not resume:
        raise InputError(f"--out: {out} holds a run ({started[0]}); continue it with --resume, or name another folder")


def check_evaluation(spec: ModelSpec, data: Dataset) -> None:
    """Raises InputError where a task could not be validated: data that do not fit, or a package that is missing."""
    for task in spec.tasks:
        TaskEvaluation(task, spec.labels, data, detections=1)


def open_data(config: Config, root: Path) -> tuple[Dataset, Dataset | None]:
    """The train split and the val split, where there is one, as the tasks need them.

    Raises InputError where the data cannot serve the tasks, its classes are not as many as the model's, or more than
    half of a split's images that are probed cannot be read: then it is no single damaged file.
    """
    kind = recognise(root) if config.data.format == "auto" else config.data.format
    if config.data.classes and kind != "instance-labels":
        raise InputError(f"data.classes: expected none, for {root} names its own classes (format {kind})")
    found = splits(root, kind)
    alone = root.is_file()  # one JSON file: what it holds is for training
    if alone and not found:
        raise InputError(
            f"--data: {root} is a file, and data of the format {kind} are a folder; for a JSON file of "
            "COCO instances use --set data.format=coco-instances"
        )
    training = _open_split(config, root, found[0] if alone else "train")
    if len(training.labels) != config.model.num_classes:
        raise InputError(
            f"{root}: the data set has {len(training.labels)} classes for tasks {', '.join(config.tasks)}, the model "
            f"has {config.model.num_classes}; use --set model.num_classes={len(training.labels)}"
        )
    _probe(training)
    if alone or find_split(found, "val") is None:
        say(f"{root} has no split val: training without validation, and best.safetensors is not written")
        return training, None
    validation = _open_split(config, root, "val")
    _probe(validation)
    if validation.labels != training.labels:
        raise InputError(f"{root}: the classes of the splits {training.split} and {validation.split} differ")
    return training, validation


def _open_split(config: Config, root: Path, split: str) -> Dataset:
    data = open_dataset(root, split, config.data.format, config.data.classes)
    if "panoptic" in config.tasks and isinstance(data, CocoInstances):
        raise InputError(
            f"{data.json_path}: COCO's instances may overlap and leave pixels without a segment, which the task "
            f"panoptic does not take; got tasks {', '.join(config.tasks)}, use --set 'tasks=[\"instance\"]'"
        )
    if isinstance(data, SemanticMaps) and split == "train":
        _mention_unnamed(data)
    if config.data.merge:
        data = merged(data, config.data.merge)
    data = for_tasks(data, config.tasks)
    return Cached(data, (config.data.cache_mib << 20) // max(1, config.data.workers))


def _mention_unnamed(data: SemanticMaps) -> None:
    """A list of classes that is one name too short looks like one whose next index is ignored, as CamVid's is."""
    unnamed = pixels = 0
    for index in _probed(data):
        with contextlib.suppress(InputError):  # _probe says it
            unnamed += data.unnamed(index)
            pixels += data.label_map(index).size
    if unnamed:
        say(f"{data.root}: {data.about_unnamed(unnamed, pixels)}")


def _probed(data: Dataset) -> list[int]:
    return sorted({index * len(data) // PROBED for index in range(PROBED)})


def _probe(data: Dataset) -> None:
    indices = _probed(data)
    faults = []
    segments = 0
    for index in indices:
        try:
            segments += len(data[index][1])
        except InputError as error:
            faults.append(error)
    for fault in faults:
        say(f"warning: {fault}")
    if len(faults) > len(indices) / 2:
        raise InputError(f"{len(faults)} of {len(indices)} images that were tried cannot be used; {faults[0]}")
    if not segments:
        say(f"warning: {data.root}: none of the {len(indices)} images of {data.split} that were tried shows a segment")


def build_spec(config: Config, labels: Sequence[Label]) -> ModelSpec:
    """What the checkpoints of this run will say about themselves."""
    lite = config.model.backbone.startswith("efficientnet-lite")
    if config.data.colors:
        if len(config.data.colors) != len(labels):
            raise InputError(f"data.colors: expected {len(labels)}, one for each class, got {len(config.data.colors)}")
        labels = tuple(replace(label, color=color) for label, color in zip(labels, config.data.colors, strict=True))
    return ModelSpec(
        name=config.name,
        labels=tuple(labels),
        num_queries=config.model.num_queries,
        preprocessing=Preprocessing(
            mean=LITE_MEAN if lite else IMAGENET_MEAN,
            std=LITE_STD if lite else IMAGENET_STD,
            shortest_edge=config.data.shortest_edge,
            longest_edge=config.data.longest_edge,
        ),
        postprocessing=replace(
            config.postprocessing, semantic_order="padded" if config.tasks == ("semantic",) else "image"
        ),
        tasks=config.tasks,
        size=usual_size(config.data.shortest_edge, config.data.longest_edge),
    )


def initial_model(config: Config, restored: bool) -> Mask2Former:
    """The network as it is before the first step; `restored`: its weights will be replaced by a training state's."""
    torch.manual_seed(config.train.seed)
    model = build_model(config.model)
    freeze(model, config.train.freeze)
    if restored:
        return model
    if config.train.initial_checkpoint:
        path = Path(config.train.initial_checkpoint)
        if left := load_initial_weights(model, load_checkpoint(path).weights, str(path)):
            say(f"{path}: fits but for these, which start at random: {', '.join(left)}")
    elif config.train.imagenet_weights:
        load_imagenet_weights(model.backbone, config.model.backbone)
    return model


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before the loop takes over: leave as with Ctrl-C
    sys.exit(main())
