"""Which backend this machine can build an engine for, why not the other, and the precisions of each.

backend, reason = choose_backend("auto")
"""

from __future__ import annotations

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_memory import cuda_obstacle
from mask2edge.runtime.session import first_line
from mask2edge.trt_plugins import tensorrt_plugin_library, why_no_plugin_library

BACKENDS = ("tensorrt", "onnxruntime")
PRECISIONS = {"onnxruntime": ("fp32", "fp16", "int8"), "tensorrt": ("fp32", "fp16", "bf16", "int8")}
HALF_STORAGE = "half-precision storage, fp32 arithmetic on the CPU"  # what fp16 means on ONNX Runtime
TYPED = "arithmetic in the graph's types, fp32 where it matters"  # what fp16 and bf16 mean on TensorRT
INT8 = {  # what int8 means: the rest of the network is in this type
    "onnxruntime": "convolutions and linear layers over tokens in int8, the rest in fp32",
    "tensorrt": "convolutions and linear layers over tokens in int8, the rest in fp16, fp32 where it matters",
}


def choose_backend(wished: str) -> tuple[str, str]:
    """(backend, reason). Raises InputError where the wished one cannot be had."""
    if wished == "onnxruntime":
        return "onnxruntime", "as asked"
    obstacle = why_no_tensorrt()
    if wished == "tensorrt":
        if obstacle:
            raise InputError(
                f"--backend tensorrt: {obstacle}; use --backend onnxruntime, or --dry-run to see what would be built"
            )
        return "tensorrt", "as asked"
    obstacle = obstacle or why_no_plugins()
    return ("onnxruntime", obstacle) if obstacle else ("tensorrt", "an NVIDIA GPU, TensorRT and the plugins are here")


def why_no_tensorrt() -> str:
    """One clause: what stands between this machine and a TensorRT engine; "" where nothing does."""
    # The driver first, and by its own library: TensorRT's runtime ends the process where there is none.
    driver = cuda_obstacle()
    if driver:
        return f"TensorRT needs an NVIDIA GPU, and {driver}"
    try:
        import tensorrt
    except ModuleNotFoundError:
        return "the Python package tensorrt is not installed"
    except (ImportError, OSError) as error:
        return f"the Python package tensorrt cannot be imported ({first_line(error)})"
    if not hasattr(tensorrt, "Builder") or not hasattr(tensorrt, "OnnxParser"):
        return "the installed TensorRT is a runtime alone, without the builder"
    return ""


def why_no_plugins() -> str:
    """One clause: why the custom ops cannot run on TensorRT; "" where they can."""
    return "" if tensorrt_plugin_library() is not None else why_no_plugin_library()


def require_precision(precision: str, backend: str) -> None:
    """Raises InputError where the backend cannot have it in this version."""
    if precision not in PRECISIONS[backend]:
        raise InputError(
            f"--{precision}: not available in this version on {backend}; expected one of "
            f"{', '.join('--' + name for name in PRECISIONS[backend])}"
        )


def describe_precision(precision: str, backend: str) -> str:
    """For people: what the precision of an engine means on its backend."""
    if precision == "fp32":
        return precision
    if precision == "int8":
        return f"{precision}: {INT8[backend]}"
    return f"{precision}: {TYPED if backend == 'tensorrt' else HALF_STORAGE}"
