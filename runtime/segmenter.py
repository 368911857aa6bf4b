"""An engine and the way through it: image -> network input -> logits -> masks.

segmenter = Segmenter.load("artifacts/street-lite-fp16.engine")
result = segmenter(cv2.imread("street.jpg"))
"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from mask2edge.runtime import postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.native_postprocess import NativePostprocess
from mask2edge.runtime.preprocess import Prepared, check_image, preprocess_batch
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.session import ImageSession, Session
from mask2edge.runtime.session_onnxruntime import MODEL_FILE, OnnxRuntimeSession
from mask2edge.runtime.session_tensorrt import PLAN_FILE, TensorRTSession
from mask2edge.runtime.spec import EngineSpec

TASKS = ("panoptic", "instance", "semantic")


class Segmenter:
    """A loaded engine. Calls may follow one another with any image sizes and tasks."""

    def __init__(self, spec: EngineSpec, session: Session, threads: int | None = None) -> None:
        """`threads`: of pre- and post-processing on the CPU, 0 or None as many as the process may use."""
        self.spec = spec
        self.session = session
        self._threads = threads or 0
        self._native = NativePostprocess.find(self._threads)  # None: no library was built here
        # One that goes from images to masks by itself, on the device.
        self._on_device = session if isinstance(session, ImageSession) and session.on_device else None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        object_threshold: float | None = None,
        overlap_threshold: float | None = None,
        threads: int | None = None,
        contexts: int = 1,
        instance_top_k: int | None = None,
        streaming: bool = False,
    ) -> Segmenter:
        """Loads an engine folder. Thresholds and `instance_top_k`, the most instances of an image: None is the spec's.
        `threads` are ONNX Runtime's and those of pre- and post-processing on the CPU, 0 or None their own choice;
        `contexts` are TensorRT's, how many batches may be under way at a time. `streaming` says that images are read
        and masks written beside the network, as `stream` does: on the CPU it then yields its cores to them.

        Raises InputError where the folder is no engine, is newer than this code, was changed since it was built, or
        needs something that this machine lacks.
        """
        folder = Path(path)
        spec = EngineSpec.load(folder)
        if spec.backend not in ("onnxruntime", "tensorrt"):
            raise InputError(
                f"{folder}: expected backend onnxruntime or tensorrt, got {spec.backend!r}; build the engine again"
            )
        file = PLAN_FILE if spec.backend == "tensorrt" else MODEL_FILE
        if file not in spec.files:
            raise InputError(f"{folder}: expected {file} among the files of spec.json; build the engine again")
        thresholds = {"object_threshold": object_threshold, "overlap_threshold": overlap_threshold}
        given: dict[str, Any] = {
            name: _checked_threshold(name, value) for name, value in thresholds.items() if value is not None
        }
        if instance_top_k is not None:
            given["instance_top_k"] = instance_top_k
        spec.verify_files(folder)
        if given:
            rules = dataclasses.replace(spec.model.postprocessing, **given)
            spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, postprocessing=rules))
        if spec.backend == "tensorrt":
            return cls(spec, TensorRTSession(folder, spec, contexts), threads)
        return cls(spec, OnnxRuntimeSession(folder, spec, threads, streaming), threads)

    @overload
    def __call__(self, image: np.ndarray, task: str | None = None) -> Segmentation: ...
    @overload
    def __call__(self, image: Sequence[np.ndarray], task: str | None = None) -> list[Segmentation]: ...
    def __call__(
        self, image: np.ndarray | Sequence[np.ndarray], task: str | None = None
    ) -> Segmentation | list[Segmentation]:
        """One image, uint8 [H, W, 3] BGR, or a list of images of any sizes; task None is `default_task`.

        A list goes through the network in batches as large as the engine takes, each padded to its largest image.
        Raises InputError for another kind of image or a task that the model cannot do.
        """
        task = self.check_task(task)
        if not isinstance(image, Sequence) or isinstance(image, str):
            check_image(image)
            return self._batches([[image]], task)[0]
        for one in image:
            check_image(one)  # before any of them costs time
        most = self.spec.profile.max[0]
        batches = [image[start : start + most] for start in range(0, len(image), most)]
        return self._batches(batches, task)

    def timed(self, image: np.ndarray, task: str | None = None) -> tuple[Segmentation, dict[str, float]]:
        """As a call with one image, and the milliseconds that it took: preprocess_ms, network_ms, postprocess_ms."""
        task = self.check_task(task)
        check_image(image)
        if self._on_device is not None:
            steps: dict[str, float] = {}
            (result,) = self._on_device.segment_async([image], task, steps).result()
            return result, {f"{step}_ms": milliseconds for step, milliseconds in steps.items()}
        start = time.perf_counter()
        pixels, prepared = self.prepare([image])
        ready = time.perf_counter()
        outputs = self.session.run(pixels)
        ran = time.perf_counter()
        (result,) = self.finish(outputs, prepared, task)
        moments = (start, ready, ran, time.perf_counter())
        names = ("preprocess_ms", "network_ms", "postprocess_ms")
        return result, {
            name: 1000 * (end - begin) for name, begin, end in zip(names, moments, moments[1:], strict=False)
        }

    def with_thresholds(
        self, object_threshold: float | None = None, overlap_threshold: float | None = None
    ) -> Segmenter:
        """The same engine under other panoptic thresholds; None keeps this one's. Both share the session: close one.

        A GPU's session has the thresholds that it was loaded with, so under others the masks are made on the CPU.
        Raises InputError for a threshold that is no number from 0 to 1.
        """
        thresholds = {"object_threshold": object_threshold, "overlap_threshold": overlap_threshold}
        given = {name: _checked_threshold(name, value) for name, value in thresholds.items() if value is not None}
        rules = dataclasses.replace(self.spec.model.postprocessing, **given)
        if rules == self.spec.model.postprocessing:
            return self
        other = copy.copy(self)
        other.spec = dataclasses.replace(self.spec, model=dataclasses.replace(self.spec.model, postprocessing=rules))
        other._on_device = None
        return other

    def for_tasks(self, image: np.ndarray, tasks: Sequence[str]) -> dict[str, Segmentation]:
        """One image's result for each task, of one pass of the network where masks are made on the CPU.

        Raises InputError as a call does.
        """
        tasks = [self.check_task(task) for task in tasks]
        check_image(image)
        if self._on_device is not None:
            return {task: self._on_device.segment_images([[image]], task)[0] for task in tasks}
        pixels, prepared = self.prepare([image])
        outputs = self.session.run(pixels)
        return {task: self.finish(outputs, prepared, task)[0] for task in tasks}

    @property
    def default_task(self) -> str:
        """Panoptic where the model does it, else the first of its tasks."""
        tasks = self.spec.model.tasks
        return "panoptic" if "panoptic" in tasks and self._knows_things else tasks[0]

    def check_task(self, task: str | None) -> str:
        """The task, or the default for None. Raises InputError where this model cannot do it."""
        if task is None:
            task = self.default_task
        model = self.spec.model
        if task not in TASKS:
            raise InputError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
        if task == "panoptic" and not self._knows_things:
            raise InputError(
                f"task panoptic: {model.name} does not say which of its classes are things; "
                "import or train it with labels that do (--labels FILE)"
            )
        if task not in model.tasks:
            raise InputError(f"task {task}: {model.name} was made for {', '.join(model.tasks)}; choose one of these")
        return task

    def prepare(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Prepared]]:
        """The first step alone: pixels [N, 3, H, W] for `session.run`, and what `finish` needs of each image."""
        return preprocess_batch(images, self.spec.model.preprocessing, self.spec.profile, self._threads)

    def finish(self, outputs: dict[str, np.ndarray], prepared: Sequence[Prepared], task: str) -> list[Segmentation]:
        """The last step alone: the results of `session.run` as masks, one `Segmentation` for each prepared image."""
        steps = self._native or postprocess
        make = {"semantic": steps.semantic, "panoptic": steps.panoptic, "instance": steps.instance}
        results = []
        for index, one in enumerate(prepared):
            logits = outputs["class_logits"][index], outputs["mask_logits"][index]  # [Q, K+1], [Q, H/4, W/4]
            results.append(make[task](*logits, one.padded, one.content, one.image, self.spec.model))
        return results

    def close(self) -> None:
        """Frees the engine, above all a GPU's memory; the segmenter cannot be used any more. May be called again."""
        self.session.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, batches: Sequence[Sequence[np.ndarray]], task: str) -> list[Segmentation]:
        if self._on_device is not None:
            return self._on_device.segment_images(batches, task)
        results: list[Segmentation] = []
        for batch in batches:
            pixels, prepared = self.prepare(batch)
            results += self.finish(self.session.run(pixels), prepared, task)
        return results

    @property
    def _knows_things(self) -> bool:
        return all(label.is_thing is not None for label in self.spec.model.labels)


def _checked_threshold(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return float(value)
