"""float16 and bfloat16 as ONNX stores them, to and from float32 NumPy arrays.

    tensor = to_half(weights, "layer.weight", "bf16")
    from_half(tensor)                                   # float32, the values that rounding left

NumPy knows no bfloat16, so its two bytes are made here: the upper half of a float32, rounded to nearest, ties to even.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
HALVES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
LARGEST = {"fp16": 65504.0, "bf16": 3.3895313892515355e38}


def to_half(values: np.ndarray, name: str, precision: str) -> TensorProto:
    """Rounds to nearest even; what is beyond `LARGEST` becomes infinite."""
    tensor = TensorProto(name=name, dims=values.shape, data_type=TYPES[precision])
    values = np.ascontiguousarray(values, np.float32)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            tensor.raw_data = values.astype(np.float16).tobytes()
        return tensor
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40  # adding would carry a NaN into the sign
    tensor.raw_data = np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16).tobytes()
    return tensor


def from_half(tensor: TensorProto) -> np.ndarray:
    if tensor.data_type == TensorProto.FLOAT16:
        return numpy_helper.to_array(tensor).astype(np.float32)
    bits = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tuple(tensor.dims))
