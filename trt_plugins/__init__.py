"""The custom operators and the native libraries that run them: one for ONNX Runtime, one for TensorRT; and the library
that does pre- and post-processing on the CPU; and the one with which training is faster there.

    options = onnxruntime.SessionOptions()
    library = onnxruntime_ops_library()
    if library is not None:
        options.register_custom_ops_library(str(library))

    register_plugins(tensorrt)    # before an ONNX file with the ops is parsed, or an engine with them is loaded

This is the only place that looks for a native library. Graphs that use the ops name OP_DOMAIN and OP_VERSION. Only the
standard library is imported.
"""

from __future__ import annotations

import ctypes
import importlib.resources
import os
from pathlib import Path
from typing import Any

OP_DOMAIN = "mask2edge"  # TensorRT's plugin namespace as well
OP_VERSION = 1
PLUGIN_VERSION = "1"
PLUGINS = ("MultiscaleDeformableAttention", "MaskedAttention")

LIBRARY_NAME = "libmask2edge_onnxruntime.so"
LIBRARY_VARIABLE = "MASK2EDGE_OPS_LIBRARY"  # a library built elsewhere: a build folder, a cross-compiled one
PLUGIN_LIBRARY_NAME = "libmask2edge_tensorrt.so"
PLUGIN_LIBRARY_VARIABLE = "MASK2EDGE_PLUGIN_LIBRARY"
CPU_LIBRARY_NAME = "libmask2edge_cpu.so"
CPU_LIBRARY_VARIABLE = "MASK2EDGE_CPU_LIBRARY"
TRAINING_LIBRARY_NAME = "libmask2edge_training.so"
TRAINING_LIBRARY_VARIABLE = "MASK2EDGE_TRAINING_LIBRARY"


def onnxruntime_ops_library() -> Path | None:
    """The ONNX Runtime custom-op library, or None when this installation has none (`why_missing` says why)."""
    return _library(LIBRARY_VARIABLE, _installed_library())


def why_missing() -> str:
    """One line for whoever got None: what is missing and what to do about it."""
    return _why_not(
        onnxruntime_ops_library(),
        LIBRARY_VARIABLE,
        LIBRARY_NAME,
        "it takes a C++ compiler and ONNX Runtime's headers): install g++, set ONNXRUNTIME_INCLUDE_DIR if the headers "
        "cannot be fetched, then run `pip install .` again; `pip install -v .` says what CMake found",
    )


def tensorrt_plugin_library() -> Path | None:
    """The TensorRT plugin library, or None when this installation has none (`why_no_plugin_library` says why)."""
    return _library(PLUGIN_LIBRARY_VARIABLE, _installed_plugin_library())


def why_no_plugin_library() -> str:
    """One line for whoever got None: what is missing and what to do about it."""
    return _why_not(
        tensorrt_plugin_library(),
        PLUGIN_LIBRARY_VARIABLE,
        PLUGIN_LIBRARY_NAME,
        "it takes nvcc, TensorRT's headers and an NVIDIA device): on the device run `pip install .` again, with "
        "TENSORRT_INCLUDE_DIR set if the headers cannot be fetched; elsewhere "
        "`pip install -C cmake.define.MASK2EDGE_TENSORRT=ON .` builds it for every GPU and says what it misses",
    )


def cpu_library() -> Path | None:
    """The library of pre- and post-processing, or None when this installation has none (`why_no_cpu_library`)."""
    return _library(CPU_LIBRARY_VARIABLE, _installed_cpu_library())


def why_no_cpu_library() -> str:
    """One line for whoever got None: what is missing and what to do about it."""
    return _why_not(
        cpu_library(),
        CPU_LIBRARY_VARIABLE,
        CPU_LIBRARY_NAME,
        "it takes a C++ compiler): install g++, then run `pip install .` again; `pip install -v .` says what CMake "
        "found",
    )


def training_library() -> Path | None:
    """The library of what training computes in C++, or None when this installation has none."""
    return _library(TRAINING_LIBRARY_VARIABLE, _installed_training_library())


def why_no_training_library() -> str:
    """One line for whoever got None: what is missing and what to do about it."""
    return _why_not(
        training_library(),
        TRAINING_LIBRARY_VARIABLE,
        TRAINING_LIBRARY_NAME,
        "it takes a C++ compiler): install g++, then run `pip install .` again; `pip install -v .` says what CMake "
        "found",
    )


def register_plugins(trt: Any, library: Path | None = None) -> Path:
    """Loads the plugin library (default: the installed one) into TensorRT's registry, once a process. Returns it.

    trt is whatever has `get_plugin_registry()`: the module tensorrt, or a Runtime with a registry of its own. Raises
    OSError where there is no library or it does not load, ValueError where its ops are not of OP_VERSION or TensorRT
    does not take them; each with one line for the user.
    """
    library = library or tensorrt_plugin_library()
    if library is None:
        raise OSError(why_no_plugin_library())
    version = plugin_library_version(library)
    if version != OP_VERSION:
        raise ValueError(
            f"{library} has ops of version {version}, expected version {OP_VERSION}: run `pip install .` again"
        )
    registry = trt.get_plugin_registry()
    missing = _missing_plugins(registry)
    if missing:  # TensorRT takes a library whose plugins it already has for a mistake
        registry.load_library(str(library))
        missing = _missing_plugins(registry)
    if missing:
        raise ValueError(
            f"TensorRT did not register {', '.join(missing)} from {library}: expected TensorRT 10.3 or newer; its log "
            "says more"
        )
    return library


def plugin_library_version(library: Path) -> int:
    """The version of the ops in a plugin library. Raises OSError where the file does not load or is another library."""
    try:
        function = ctypes.CDLL(str(library)).mask2edge_op_version
    except AttributeError as error:
        raise OSError(f"{library} is not mask2edge's plugin library: it has no mask2edge_op_version") from error
    except OSError as error:
        raise OSError(f"{library} does not load: {error}") from error
    function.restype = ctypes.c_int32
    return int(function())


def _missing_plugins(registry: Any) -> list[str]:
    # Not get_creator: for a plugin that is not there it writes an error into the user's log.
    there = {
        (getattr(creator, "name", ""), getattr(creator, "plugin_version", ""))
        for creator in registry.all_creators
        if getattr(creator, "plugin_namespace", "") == OP_DOMAIN
    }
    return [name for name in PLUGINS if (name, PLUGIN_VERSION) not in there]


def _library(variable: str, installed: Path | None) -> Path | None:
    named = os.environ.get(variable)
    library = Path(named) if named else installed
    return library.resolve() if library is not None and library.is_file() else None


def _why_not(library: Path | None, variable: str, name: str, what_it_takes: str) -> str:
    named = os.environ.get(variable)
    if named and not Path(named).is_file():
        return f"{variable} names {named}, which is not a file: point it at {name}, or unset it"
    if library is not None:
        return ""
    return f"{name} was not built when mask2edge was installed ({what_it_takes}"


def _installed_library() -> Path | None:
    return _beside_this_module(LIBRARY_NAME)


def _installed_plugin_library() -> Path | None:
    return _beside_this_module(PLUGIN_LIBRARY_NAME)


def _installed_cpu_library() -> Path | None:
    return _beside_this_module(CPU_LIBRARY_NAME)


def _installed_training_library() -> Path | None:
    return _beside_this_module(TRAINING_LIBRARY_NAME)


def _beside_this_module(name: str) -> Path | None:
    # Not Path(__file__).parent: an editable install keeps the library elsewhere, and the loader knows where.
    try:
        return Path(str(importlib.resources.files("mask2edge.trt_plugins") / name))
    except (ModuleNotFoundError, TypeError):
        return None
