"""The operators' kernels called one by one on device memory, without TensorRT around them.

    with open_device() as device:
        output, ms = LaunchedOps(library, device).run(case, typed_inputs(case, "fp16"), "fp16", repeat=50)

The plugin library's C functions do it (trt_plugins/tensorrt/kernel_calls.cpp).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from mask2edge.benchmarks.gpu.workbench import Workbench
from mask2edge.benchmarks.kernel_cases import Case, DeformableCase
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import Device

TYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
CODES = {"fp32": 0, "fp16": 1, "bf16": 2}  # DataType of trt_plugins/common/data_type.h
ALWAYS_FP32 = ("reference_points", "mask_logits")
HEAD_SIZES = (16, 32, 64)


def typed_inputs(case: Case, precision: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The case's inputs, rounded to the type in which the kernel takes each."""
    kind = TYPES[precision]
    return {
        name: array.astype(kind) if array.dtype == np.float32 and name not in ALWAYS_FP32 else array
        for name, array in case.inputs(seed).items()
    }


class LaunchedOps:
    """Raises InputError where the library lacks the functions, or a launch fails."""

    def __init__(self, library: Path, device: Device) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
            self._library.mask2edge_masked_attention_workspace.restype = ctypes.c_int64
            self._functions = {
                "MultiscaleDeformableAttention": self._library.mask2edge_deformable_attention,
                "MaskedAttention": self._library.mask2edge_masked_attention,
            }
        except (OSError, AttributeError) as error:
            raise InputError(f"{library}: expected mask2edge's plugin library, got {error}; build it again") from error
        self._device = device

    def run(
        self, case: Case, inputs: Mapping[str, np.ndarray], precision: str, repeat: int = 0
    ) -> tuple[np.ndarray, float]:
        """The output [N, Lq or Q, M*D] in the precision's type; with `repeat`, also milliseconds of one launch, the
        mean of that many in a row after the first.
        """
        first, *_ = inputs.values()
        rows = inputs["offsets" if isinstance(case, DeformableCase) else "query"].shape[1]
        shape = (first.shape[0], rows, first.shape[2])
        sizes, codes = self._sizes(case, inputs), (CODES[precision],)
        with Workbench(self._device) as bench:
            addresses = [bench.upload(array) for array in inputs.values()]
            output = bench.allocate(math.prod(shape) * TYPES[precision].itemsize)
            addresses.append(output)
            if isinstance(case, DeformableCase):
                codes *= 2  # of the values, and of offsets and logits
            else:
                addresses.append(bench.allocate(self._library.mask2edge_masked_attention_workspace(sizes)))
            pointers = (ctypes.c_void_p * len(addresses))(*addresses)

            def launch() -> None:
                error = self._functions[case.op](sizes, *codes, pointers, ctypes.c_void_p(bench.stream))
                if error:
                    raise InputError(f"{case.op}: the launch failed with CUDA error {error}")

            launch()
            result = bench.download(output, shape, TYPES[precision])
            return result, bench.time(launch, repeat) if repeat else 0.0

    def _sizes(self, case: Case, inputs: Mapping[str, np.ndarray]) -> ctypes.Array[ctypes.c_int64]:
        if isinstance(case, DeformableCase):
            (batch, rows, _), queries = inputs["value"].shape, inputs["offsets"].shape[1]
            shared = inputs["reference_points"].shape[0] == 1
            numbers = (batch, queries, rows, case.heads, case.head_dim, case.points, shared, len(case.shapes))
        else:
            (batch, queries, _), keys = inputs["query"].shape, inputs["key"].shape[1]
            numbers = (batch, queries, keys, case.heads, case.head_dim)
        return (ctypes.c_int64 * len(numbers))(*numbers)
