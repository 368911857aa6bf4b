"""Which backend this machine can build an engine for, and why not the other. Standard library only.

backend, reason = choose_backend("auto")
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform

from mask2edge.runtime.command_line import InputError

BACKENDS = ("tensorrt", "onnxruntime")
CPU_PRECISIONS = ("fp32", "fp16")
HALF_STORAGE = "half-precision storage, fp32 arithmetic on the CPU"  # what fp16 means on ONNX Runtime


def choose_backend(wished: str) -> tuple[str, str]:
    """(backend, reason). Raises InputError where the wished one cannot be had."""
    if wished == "onnxruntime":
        return "onnxruntime", "as asked"
    obstacle = why_no_tensorrt()
    if wished == "tensorrt":
        raise InputError(f"--backend tensorrt: {obstacle}; use --backend onnxruntime")
    return "onnxruntime", obstacle


def why_no_tensorrt() -> str:
    """One clause: what stands between this machine and a TensorRT engine."""
    # The driver first, and by its own library: TensorRT's runtime ends the process where there is none.
    driver = _driver_obstacle()
    if driver:
        return f"TensorRT needs an NVIDIA GPU, and {driver}"
    if importlib.util.find_spec("tensorrt") is None:
        return "the Python package tensorrt is not installed"
    return "this version does not build TensorRT engines yet"


def require_precision(precision: str, backend: str) -> None:
    """Raises InputError where the backend cannot have it in this version."""
    if precision not in CPU_PRECISIONS:
        raise InputError(
            f"--{precision}: not available in this version on {backend}; expected one of "
            f"{', '.join('--' + name for name in CPU_PRECISIONS)}"
        )


def _driver_obstacle() -> str:
    name = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no CUDA driver was found ({name})"
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error:
        return f"the CUDA driver does not work (error {error})"
    return "" if count.value else "the CUDA driver sees no GPU"
