"""libmask2edge_cpu.so: pre- and post-processing on the CPU, in C++, as ctypes sees it.

    library = find()                                 # None where this installation has none
    library.mask2edge_cpu_interface()                # 1

`native_postprocess` and `preprocess` call its functions (trt_plugins/segment_fusion/cpu_c_api.h), with host addresses.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import SEGMENT_DTYPE, Shape, Sizes
from mask2edge.trt_plugins import CPU_LIBRARY_VARIABLE, cpu_library

CPU_INTERFACE = 1  # kCpuInterface of trt_plugins/segment_fusion/cpu_c_api.h


class Tensors(ctypes.Structure):
    """CpuTensors of trt_plugins/segment_fusion/cpu.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("class_logits", "mask_logits", "is_thing", "label_map", "table")]


_POINTER, _INT32, _INT64, _DOUBLE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {  # name -> result, arguments
    "mask2edge_cpu_interface": (_INT32, ()),
    "mask2edge_cpu_layout": (_INT32, (_POINTER, _INT32)),
    "mask2edge_cpu_instruction_sets": (ctypes.c_char_p, ()),
    "mask2edge_cpu_problem": (_INT32, (_POINTER, ctypes.c_char_p, _INT32)),
    "mask2edge_cpu_semantic": (_INT32, (_POINTER, _INT32, _POINTER, _INT32, _INT32)),
    "mask2edge_cpu_panoptic": (_INT32, (_POINTER, _DOUBLE, _DOUBLE, _POINTER, _INT32, _INT32)),
    "mask2edge_cpu_instances": (_INT32, (_POINTER, _INT32, _POINTER, _INT32, _INT32, _POINTER)),
    "mask2edge_cpu_counts": (_INT64, (_POINTER, _POINTER, _POINTER)),
    "mask2edge_cpu_free_counts": (None, (_POINTER,)),
    "mask2edge_cpu_shrinks_by_area": (_INT32, (_POINTER,)),
    "mask2edge_cpu_preprocess": (_INT32, (_POINTER, _INT64, _POINTER, _INT32, _POINTER, _POINTER, _INT32)),
}


def expected_layout() -> list[int]:
    """sizeof and offsets of the structures as declared here, in the order of mask2edge_cpu_layout."""
    rows = [offset for _, offset, *_ in (SEGMENT_DTYPE.fields or {}).values()]
    return [*_layout(Sizes), *_layout(Tensors), SEGMENT_DTYPE.itemsize, *rows, *_layout(Shape)]


def _layout(structure: type[ctypes.Structure]) -> list[int]:
    return [ctypes.sizeof(structure), *(getattr(structure, field[0]).offset for field in structure._fields_)]


def load_library(path: Path) -> ctypes.CDLL:
    """The library with its functions declared. Raises InputError where it is not one, or one of another version."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        raise InputError(
            f"{path}: expected mask2edge's library of pre- and post-processing, got {error}; install mask2edge again"
        ) from error
    interface, expected = library.mask2edge_cpu_interface(), expected_layout()
    numbers = (ctypes.c_int32 * len(expected))()
    count = library.mask2edge_cpu_layout(numbers, len(expected))
    if interface != CPU_INTERFACE or count != len(expected) or list(numbers) != expected:
        raise InputError(
            f"{path}: expected interface {CPU_INTERFACE}, got {interface}"
            f"{'' if interface != CPU_INTERFACE else ' with other structures'}: the library is of another version of "
            "mask2edge; install mask2edge again"
        )
    return library


def find() -> ctypes.CDLL | None:
    """The installed library, or the one that MASK2EDGE_CPU_LIBRARY names; None where there is none.

    Raises InputError where it is of another version.
    """
    return _find(os.environ.get(CPU_LIBRARY_VARIABLE))


@functools.cache
def _find(named: str | None) -> ctypes.CDLL | None:
    library = cpu_library()
    return None if library is None else load_library(library)


def check_memory(error: int) -> None:
    """Raises MemoryError for what a function of the library returned."""
    if error:
        raise MemoryError("pre- and post-processing: there is not enough memory")
