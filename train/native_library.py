"""libmask2edge_training.so: what training computes in C++ on the CPU, as ctypes sees it.

    library = find()                                 # None where this installation has none

`model/native_sampling` calls its functions (trt_plugins/training/c_api.h), with host addresses.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.trt_plugins import TRAINING_LIBRARY_VARIABLE, training_library

TRAINING_INTERFACE = 1  # kTrainingInterface of trt_plugins/training/c_api.h

_POINTER, _INT32, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {  # name -> result, arguments
    "mask2edge_training_interface": (_INT32, ()),
    "mask2edge_training_instruction_sets": (_TEXT, ()),
    "mask2edge_deformable_attention": (_INT32, (*[_POINTER] * 7, _INT32, _INT32, _TEXT, _INT32)),
    "mask2edge_deformable_attention_gradient": (_INT32, (*[_POINTER] * 10, _INT32, _INT32, _TEXT, _INT32)),
}


def load_library(path: Path) -> ctypes.CDLL:
    """The library with its functions declared. Raises InputError where it is not one, or one of another version."""
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        raise InputError(
            f"{path}: expected mask2edge's training library, got {error}; install mask2edge again"
        ) from error
    interface = library.mask2edge_training_interface()
    if interface != TRAINING_INTERFACE:
        raise InputError(
            f"{path}: expected interface {TRAINING_INTERFACE}, got {interface}: the library is of another version of "
            "mask2edge; install mask2edge again"
        )
    return library


def find() -> ctypes.CDLL | None:
    """The installed library, or the one that MASK2EDGE_TRAINING_LIBRARY names; None where there is none.

    Raises InputError where it is of another version.
    """
    return _find(os.environ.get(TRAINING_LIBRARY_VARIABLE))


@functools.cache
def _find(named: str | None) -> ctypes.CDLL | None:
    library = training_library()
    return None if library is None else load_library(library)
