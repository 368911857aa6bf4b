"""Requests and responses of Triton's Python backend: image files in, label maps and segments out.

    images = read_images(request)                     # a list of uint8 [H, W, 3] BGR
    response = respond(request, results)              # or: fail(error)

Imported in Triton's own process alone: `triton_python_backend_utils` is there and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import decode_image
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segment_entries import describe
from mask2edge.runtime.triton_names import IMAGE, LABEL_MAP, SEGMENTS


def read_images(request: Any) -> list[np.ndarray]:
    """The images of IMAGE, bytes [N, 1]. Raises InputError where one of them is no image."""
    files = pb_utils.get_input_tensor_by_name(request, IMAGE).as_numpy().reshape(-1)  # [N]
    names = [IMAGE] if len(files) == 1 else [f"{IMAGE} {index}" for index in range(len(files))]
    return [decode_image(bytes(data), name) for data, name in zip(files, names, strict=True)]


def respond(request: Any, results: Sequence[Segmentation]) -> Any:
    """A response with the outputs that the request asks for. Raises InputError where they cannot be one tensor."""
    wanted = set(request.requested_output_names())
    tensors = []
    if LABEL_MAP in wanted:
        sizes = {result.size for result in results}
        if len(sizes) > 1:
            raise InputError(
                f"{LABEL_MAP}: expected images of one size in a request, got {len(sizes)} sizes; "
                f"send one image a request, or ask for {SEGMENTS} alone"
            )
        label_maps = np.stack([result.label_map for result in results])  # [N, H, W]
        tensors.append(pb_utils.Tensor(LABEL_MAP, label_maps.astype(np.int32, copy=False)))
    if SEGMENTS in wanted:
        texts = [[json.dumps(describe(result), separators=(",", ":")).encode()] for result in results]
        tensors.append(pb_utils.Tensor(SEGMENTS, np.array(texts, dtype=object)))  # [N, 1]
    return pb_utils.InferenceResponse(tensors)


def fail(error: BaseException) -> Any:
    """A response that fails its own request: the client's mistake for an InputError, else the model's."""
    code = pb_utils.TritonError.INVALID_ARG if isinstance(error, InputError) else pb_utils.TritonError.INTERNAL
    text = " ".join(str(error).split()) or type(error).__name__
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
