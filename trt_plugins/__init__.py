"""The custom operators and the native library that runs them in ONNX Runtime. Only the standard library is imported.

    options = onnxruntime.SessionOptions()
    library = onnxruntime_ops_library()
    if library is not None:
        options.register_custom_ops_library(str(library))

This is the only place that looks for a native library. Graphs that use the ops name OP_DOMAIN and OP_VERSION.
"""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

OP_DOMAIN = "mask2edge"
OP_VERSION = 1

LIBRARY_NAME = "libmask2edge_onnxruntime.so"
LIBRARY_VARIABLE = "MASK2EDGE_OPS_LIBRARY"  # a library built elsewhere: a build folder, a cross-compiled one


def onnxruntime_ops_library() -> Path | None:
    """The ONNX Runtime custom-op library, or None when this installation has none (`why_missing` says why)."""
    named = os.environ.get(LIBRARY_VARIABLE)
    library = Path(named) if named else _installed_library()
    return library.resolve() if library is not None and library.is_file() else None


def why_missing() -> str:
    """One line for whoever got None: what is missing and what to do about it."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named and not Path(named).is_file():
        return f"{LIBRARY_VARIABLE} names {named}, which is not a file: point it at {LIBRARY_NAME}, or unset it"
    if onnxruntime_ops_library() is not None:
        return ""
    return (
        f"{LIBRARY_NAME} was not built when mask2edge was installed (it takes a C++ compiler and ONNX Runtime's "
        "headers): install g++, set ONNXRUNTIME_INCLUDE_DIR if the headers cannot be fetched, then run `pip install .` "
        "again; `pip install -v .` says what CMake found"
    )


def _installed_library() -> Path | None:
    # Not Path(__file__).parent: an editable install keeps the library elsewhere, and the loader knows where.
    try:
        return Path(str(importlib.resources.files("mask2edge.trt_plugins") / LIBRARY_NAME))
    except (ModuleNotFoundError, TypeError):
        return None
