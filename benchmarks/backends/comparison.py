"""One input through the reference and through each backend, by Polygraphy's comparator.

    reference = Reference(model, spec, profile, image)       # the checkpoint on PyTorch, in float32
    reference.compare(Backend("onnxruntime-custom", "…", runner), TOLERANCES["fp32"]).differences

A backend runs as it is: every decoder layer attends by the masks that the backend itself calculated, so a bit that
flipped is in all that follows. (Before it writes a file, export/to_onnx.py compares with the same masks in both.)
Backends run one after the other, and each is closed and its stages are dropped before the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.comparator import Comparator, RunResults
from polygraphy.logger import G_LOGGER

from mask2edge.benchmarks.backends.differences import Difference, StageComparison, Tolerance
from mask2edge.benchmarks.backends.predictions import LabelMap, Predictions
from mask2edge.benchmarks.backends.runners import TorchRunner
from mask2edge.benchmarks.backends.stages import place
from mask2edge.runtime.command_line import InputError, say
from mask2edge.runtime.session import INPUT
from mask2edge.runtime.spec import ModelSpec, Profile
from mask2edge.train.model.mask2former import Mask2Former
from mask2edge.train.torch_session import torch_segmenter


@dataclass(frozen=True)
class Backend:
    """`obstacle`: why it cannot run here, "" where it can; `note`: what its row should say besides."""

    name: str
    about: str
    runner: BaseRunner | None = None
    obstacle: str = ""
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """`differences` in the order of calculation; `missing`: the reference's stages that the backend does not show."""

    backend: Backend
    differences: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    not_run: str = ""

    @property
    def failed(self) -> bool:
        """Whether it was there and could not run it: an export or an engine that is broken, not one that is absent."""
        return bool(self.not_run) and self.backend.runner is not None


class Reference:
    """The plain model on an image, uint8 [H, W, 3] BGR, prepared as an engine of `profile` prepares it.

    Raises InputError for a task that the model cannot do.
    """

    def __init__(
        self, model: Mask2Former, spec: ModelSpec, profile: Profile, image: np.ndarray, task: str | None = None
    ) -> None:
        segmenter = torch_segmenter(model, spec, profile)
        self.task = segmenter.check_task(task)
        self.pixels, prepared = segmenter.prepare([image])  # [N, 3, H, W]
        self._steps = (Predictions(model).add, LabelMap(segmenter, prepared, self.task).add)
        self._results = self.run(TorchRunner(model, self.pixels.shape))

    @property
    def stages(self) -> Mapping[str, np.ndarray]:
        """By name."""
        ((_, iterations),) = self._results
        return dict(iterations[0].items())

    def run(self, runner: BaseRunner) -> RunResults:
        """Its stages on the image. Raises InputError where it cannot run."""
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):  # Polygraphy logs to stdout
            results = Comparator.run([runner], data_loader=[{INPUT: self.pixels}])
            for step in self._steps:
                Comparator.postprocess(results, step)
        return results

    def compare(self, backend: Backend, tolerance: Tolerance) -> Outcome:
        if backend.runner is None:
            return Outcome(backend, not_run=backend.obstacle)
        say(f"{backend.name}: {backend.about}")
        try:
            results = self.run(backend.runner)
        except InputError as error:
            return Outcome(backend, not_run=str(error))
        both = RunResults()
        both.extend(self._results)
        both.extend(results)
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            accuracy = Comparator.compare_accuracy(both, compare_func=StageComparison(tolerance))
        if not hasattr(accuracy, "keys"):
            (accuracy,) = accuracy  # from Polygraphy 0.53 on: one for each compare function
        ((differences,),) = accuracy.values()  # of the one pair's one iteration
        missing = sorted(set(self.stages) - set(differences), key=place)
        return Outcome(backend, tuple(differences.values()), tuple(missing))
