"""An engine as a model of Triton's Python backend: image files in, label maps and segments out, on any backend of ours.

    from mask2edge.runtime.triton_model import SegmentationModel as TritonPythonModel    # all of a model.py

export/triton_repository.py writes that model.py, its configuration and the engine beside it. Requests that Triton
batches go through the network together; one that fails, fails alone. What an image gets does not depend on the others
of its batch: only images that the network sees at the same size share one.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.preprocess import content_size, padded_size
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.triton_names import ENGINE_FOLDER, TASK, TASK_PARAMETER, THREADS_PARAMETER
from mask2edge.runtime.triton_requests import fail, read_images, respond


class SegmentationModel:
    """What Triton makes of each instance, in a process of its own. The methods' names are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the engine. Raises TritonModelException where that fails: the model is not ready."""
        choose_gpu(args, os.environ)
        parameters = parameters_of(args)
        try:
            self._segmenter = Segmenter.load(
                version_folder(args) / ENGINE_FOLDER, threads=int(parameters.get(THREADS_PARAMETER, "0"))
            )
            self._task = self._segmenter.check_task(parameters.get(TASK_PARAMETER) or None)
        except InputError as error:
            raise pb_utils.TritonModelException(" ".join(str(error).split())) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        works = [self._read(request) for request in requests]
        shared = defaultdict(list)
        for work in works:
            for position, image in enumerate(work.images):
                shared[work.tasks[position], self._network_size(image)].append((work, position))
        for (task, _), members in shared.items():
            self._run(members, task)
        return [work.response() for work in works]

    def finalize(self) -> None:
        self._segmenter.close()

    def _read(self, request: Any) -> _Work:
        try:
            images = read_images(request)
            tensor = pb_utils.get_input_tensor_by_name(request, TASK)
            words = [None] * len(images) if tensor is None else tensor.as_numpy().reshape(-1)
            tasks = [self._task if word is None else self._segmenter.check_task(word.decode()) for word in words]
            return _Work(request, images, tasks, [None] * len(images))
        except (InputError, UnicodeDecodeError) as error:
            return _Work(request, [], [], [], InputError(str(error)))

    def _run(self, members: Sequence[tuple[_Work, int]], task: str) -> None:
        try:
            results = self._segmenter([work.images[position] for work, position in members], task)
        except Exception as error:  # whatever it is, it must not take the other requests with it
            if len(members) == 1:
                members[0][0].error = error
                return
            for member in members:
                self._run([member], task)
            return
        for (work, position), result in zip(members, results, strict=True):
            work.results[position] = result

    def _network_size(self, image: np.ndarray) -> tuple[int, int]:
        rules, profile = self._segmenter.spec.model.preprocessing, self._segmenter.spec.profile
        content = content_size((image.shape[0], image.shape[1]), rules, profile)
        return padded_size([content], rules, profile)


@dataclass
class _Work:
    """One request on its way."""

    request: Any
    images: list[np.ndarray]
    tasks: list[str]
    results: list[Segmentation | None]
    error: Exception | None = None

    def response(self) -> Any:
        if self.error is not None:
            return fail(self.error)
        try:
            return respond(self.request, [result for result in self.results if result is not None])
        except InputError as error:
            return fail(error)


def version_folder(args: Mapping[str, str]) -> Path:
    """Where the model.py lies that Triton runs."""
    return Path(args["model_repository"]) / args["model_version"]


def parameters_of(args: Mapping[str, str]) -> dict[str, str]:
    """`parameters` of config.pbtxt."""
    found = json.loads(args["model_config"]).get("parameters", {})
    return {name: value["string_value"] for name, value in found.items()}


def choose_gpu(args: Mapping[str, str], environment: Any) -> None:
    """Shows this process the GPU that Triton gave the instance, alone: the runtime takes the first that it sees."""
    if args.get("model_instance_kind") != "GPU":
        return
    number = int(args["model_instance_device_id"])
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    environment["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) else str(number)
