"""How good a network is while it learns: its tasks' figures on labelled images, as an engine of it would get them.

    scores = validate(model, data, spec)
    scores.name, scores.score, scores.metrics          # "PQ", 0.43, {"PQ": 0.43, "SQ": 0.8, …}

One pass of the network an image for all tasks; what makes masks of its logits is the runtime's post-processing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from mask2edge.runtime.command_line import InputError, say
from mask2edge.runtime.spec import ModelSpec
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.evaluation.task_evaluation import HEADLINE, TaskEvaluation
from mask2edge.train.torch_session import torch_segmenter

# Of several tasks the first of these names the score, and is drawn; panoptic quality needs right classes, masks and
# instances at once
TASKS_BY_WEIGHT = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class Scores:
    """score: the figure to maximise, called `name`; metrics: all figures, as fractions; per_class: task -> class ->
    figures; skipped: images that could not be read."""

    name: str
    score: float
    metrics: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float | None]]]
    skipped: int = 0


def validate(
    model: nn.Module,
    data: Dataset,
    spec: ModelSpec,
    stop: Callable[[], bool] = lambda: False,
    tasks: Sequence[str] | None = None,
    threads: int | None = None,
) -> Scores | None:
    """Scores of a model in eval mode over all images; None where `stop()` became true before they were complete.

    `tasks` None: the spec's. `threads`: of pre- and post-processing, None for all. An image that cannot be read is
    skipped with a warning: it would end a run of hours. Raises InputError where the data do not fit the model or a
    task, and where no image could be read.
    """
    chosen = [task for task in TASKS_BY_WEIGHT if task in (tasks or spec.tasks)]
    detections = spec.postprocessing.instance_top_k
    evaluations = {task: TaskEvaluation(task, spec.labels, data, detections) for task in chosen}
    segmenter = torch_segmenter(model, spec, threads=threads)
    skipped = 0
    for index in range(len(data)):
        if stop():
            return None
        try:
            image, annotation = data[index]  # RGB [H, W, 3]
        except InputError as error:
            say(f"validation leaves out an image: {error}")
            skipped += 1
            continue
        results = segmenter.for_tasks(np.ascontiguousarray(image[:, :, ::-1]), chosen)
        for task, evaluation in evaluations.items():
            evaluation.add(annotation, results[task])
    if skipped == len(data):
        raise InputError(f"{data.root}: expected images to validate on, got none that can be read")
    metrics = {task: evaluation.metrics() for task, evaluation in evaluations.items()}
    name = HEADLINE[chosen[0]]
    return Scores(
        name=name,
        score=metrics[chosen[0]][name],
        metrics={name: figure for figures in metrics.values() for name, figure in figures.items()},
        per_class={task: evaluation.per_class() for task, evaluation in evaluations.items()},
        skipped=skipped,
    )
