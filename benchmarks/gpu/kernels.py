"""Step `kernels`: both operators on the table of kernel_cases.py in each type, against float64, and how fast.

A result may be off by twice the type's rounding of what was summed, |value| weighted as the values were: one rounding
of the result, one of the weights that a tensor core takes in the type. Bandwidth counts each tensor once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mask2edge.benchmarks.gpu.launched_ops import HEAD_SIZES, TYPES, LaunchedOps, typed_inputs
from mask2edge.benchmarks.gpu.rows import RowFile
from mask2edge.benchmarks.kernel_cases import CASES, TIMED, Case
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import open_device
from mask2edge.trt_plugins import tensorrt_plugin_library, why_no_plugin_library

REPEAT = 100
ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
ABSOLUTE = 2e-5  # fp32 accumulation
FAR_OUTSIDE = 1e-3  # offsets of 10,000 pixels have coordinates exact to 1/2000 pixel
FIRST_BFLOAT16 = 80  # compute capability


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    library = tensorrt_plugin_library()
    if library is None:
        raise InputError(why_no_plugin_library())
    with open_device() as device:
        ops = LaunchedOps(library, device)
        peak = device.properties.memory_bandwidth
        for name, case in CASES.items():
            if case.head_dim not in HEAD_SIZES:
                continue  # those are the CPU's alone
            for precision in TYPES:
                if precision == "bf16" and device.properties.sm < FIRST_BFLOAT16:
                    continue
                check(rows, ops, name, case, precision, REPEAT if name in TIMED else 0, peak)


def check(rows: RowFile, ops: LaunchedOps, name: str, case: Case, precision: str, repeat: int, peak: float) -> None:
    """Adds the rows of one case in one type."""
    what = f"{case.op} {name} {precision}"
    inputs = typed_inputs(case, precision, seed=1)
    try:
        output, milliseconds = ops.run(case, inputs, precision, repeat)
    except InputError as error:
        rows.failed(what, str(error))
        return
    absolute = FAR_OUTSIDE if name == "far-outside" else ABSOLUTE
    rows.bounded(
        f"{what}, error as a share of what is allowed", error_share(case, inputs, output, precision, absolute), 1
    )
    if repeat:
        moved = sum(array.nbytes for array in inputs.values()) + output.nbytes
        rate = moved / (1e-3 * milliseconds) if milliseconds else 0.0
        share = f", {100 * rate / peak:.0f} % of the memory's peak" if peak else ""
        rows.measured(f"{what}, one launch", f"{1e3 * milliseconds:.1f} µs, {rate / 1e9:.0f} GB/s{share}")


def error_share(
    case: Case, inputs: Mapping[str, np.ndarray], output: np.ndarray, precision: str, absolute: float
) -> float:
    """The largest |output - float64| / allowed; 0 for no elements, NaN where an output is."""
    expected = case.reference(inputs)
    summed = case.reference({**inputs, "value": np.abs(inputs["value"])})
    allowed = absolute + 2 * ROUNDING[precision] * summed
    return float(np.max(np.abs(output.astype(np.float64) - expected) / allowed, initial=0.0))
