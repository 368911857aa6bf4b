"""The steps before and after a network that Triton runs by itself: models of the Python backend, parts of an ensemble.

    from mask2edge.runtime.triton_steps import PreprocessModel as TritonPythonModel      # all of a model.py

Between them Triton's TensorRT backend runs the plan. export/triton_repository.py writes the ensemble. Beside each
model.py lies the engine's spec.json, without its plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.preprocess import Prepared
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import INPUT, OUTPUTS, Elsewhere
from mask2edge.runtime.spec import MASK_STRIDE, EngineSpec
from mask2edge.runtime.triton_model import parameters_of, version_folder
from mask2edge.runtime.triton_names import ENGINE_FOLDER, GEOMETRY, TASK_PARAMETER, THREADS_PARAMETER
from mask2edge.runtime.triton_requests import fail, read_images, respond


class _Step:
    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the engine's description. Raises TritonModelException where that fails."""
        parameters = parameters_of(args)
        try:
            spec = EngineSpec.load(version_folder(args) / ENGINE_FOLDER)
            self._segmenter = Segmenter(spec, Elsewhere(), int(parameters.get(THREADS_PARAMETER, "0")))
            self._task = self._segmenter.check_task(parameters.get(TASK_PARAMETER) or None)
        except InputError as error:
            raise pb_utils.TritonModelException(" ".join(str(error).split())) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order; one that fails, fails alone."""
        responses = []
        for request in requests:
            try:
                responses.append(self._answer(request))
            except Exception as error:  # whatever it is, it must not take the other requests with it
                responses.append(fail(error))
        return responses

    def _answer(self, request: Any) -> Any:
        raise NotImplementedError


class PreprocessModel(_Step):
    """IMAGE to the network's pixels, float32 [N, 3, H, W], and GEOMETRY."""

    def _answer(self, request: Any) -> Any:
        pixels, prepared = self._segmenter.prepare(read_images(request))  # [N, 3, H, W]
        geometry = np.array([(*one.content, *one.image) for one in prepared], np.int32)  # [N, 4]
        tensors = [pb_utils.Tensor(INPUT, pixels[: len(prepared)]), pb_utils.Tensor(GEOMETRY, geometry)]
        return pb_utils.InferenceResponse(tensors)


class PostprocessModel(_Step):
    """class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4] and GEOMETRY to LABEL_MAP and SEGMENTS."""

    def _answer(self, request: Any) -> Any:
        def values(name: str) -> np.ndarray:
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

        outputs = {name: values(name) for name in OUTPUTS}
        height, width = (MASK_STRIDE * length for length in outputs["mask_logits"].shape[2:])
        pixels = np.broadcast_to(np.float32(0), (1, 3, height, width))  # only its shape is looked at
        prepared = [
            Prepared(pixels, (int(h), int(w)), (int(image_h), int(image_w)))
            for h, w, image_h, image_w in values(GEOMETRY)
        ]
        return respond(request, self._segmenter.finish(outputs, prepared, self._task))
