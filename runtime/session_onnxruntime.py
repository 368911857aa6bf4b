"""Runs an engine's model.onnx with ONNX Runtime on the CPU.

session = OnnxRuntimeSession(Path("artifacts/street-lite-fp16.engine"), spec, threads=2)
session.run(pixels)["mask_logits"].shape     # [N, Q, H/4, W/4]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import INPUT, OUTPUTS, check_pixels, first_line
from mask2edge.runtime.spec import EngineSpec

MODEL_FILE = "model.onnx"
# Threads that spin on after a run take the cores that post-processing and the next image's preparation need.
CONFIG_ENTRIES = {"session.force_spinning_stop": "1"}
# Those that spin while an operator is under way take them from steps that run beside the network, as a stream's do:
# alone the network is 4 to 5 % faster with them, among a stream's steps all of it is slower.
STREAM_ENTRIES = {"session.intra_op.allow_spinning": "0"}


class OnnxRuntimeSession:
    """One loaded model. `threads` 0 or None leaves the number of threads to ONNX Runtime."""

    def __init__(
        self, folder: Path, spec: EngineSpec, threads: int | None = None, streaming: bool = False, options: Any = None
    ) -> None:
        """`streaming`: other steps run beside the network, and want the cores whenever it does not.
        `options`: onnxruntime.SessionOptions in place of the runtime's own.

        Raises InputError where ONNX Runtime, the op library or a sound model is missing.
        """
        onnxruntime = _import_onnxruntime()
        if threads is not None and threads < 0:
            raise InputError(f"threads: expected 0 (ONNX Runtime's choice) or more, got {threads}")
        path = folder / MODEL_FILE
        if not path.is_file():
            raise InputError(f"{path}: missing; build the engine again")
        options = options or session_options(threads, STREAM_ENTRIES if streaming else None)
        if spec.ops == "custom":
            _register_ops(options, folder, spec)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise InputError(
                f"{path}: ONNX Runtime cannot load it ({first_line(error)}); build the engine again"
            ) from error
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [INPUT] or not set(OUTPUTS) <= set(outputs):
            raise InputError(
                f"{path}: expected input {INPUT} and outputs {', '.join(OUTPUTS)}, got {inputs} and {outputs}; "
                "export the model with export/to_onnx.py"
            )
        self._path = path
        self._spec = spec

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Normalised pixels, float32 [N, 3, H, W] within the profile -> float32 class_logits [N, Q, K+1] and
        mask_logits [N, Q, H/4, W/4]. Raises InputError for another shape or type.
        """
        check_pixels(pixels, self._spec.profile)
        try:
            values = self._session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(pixels)})
        except Exception as error:
            raise InputError(
                f"{self._path}: ONNX Runtime failed on pixels {pixels.shape} ({first_line(error)}); "
                "build the engine again"
            ) from error
        return {name: np.asarray(value, np.float32) for name, value in zip(OUTPUTS, values, strict=True)}

    def close(self) -> None:
        """Nothing to do: ONNX Runtime frees the model with this object."""


def session_options(threads: int | None = None, entries: Mapping[str, str] | None = None) -> Any:
    """onnxruntime.SessionOptions as the runtime has them; benchmarks/session_settings.py compares other `entries`.

    Raises InputError where ONNX Runtime is missing.
    """
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors alone; a warning about a fold or a device is nobody's mistake
    for key, value in (CONFIG_ENTRIES | dict(entries or {})).items():
        options.add_session_config_entry(key, value)
    if threads:
        options.intra_op_num_threads = threads
    return options


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"this engine runs on ONNX Runtime, which cannot be imported ({error}); pip install 'onnxruntime>=1.18'"
        ) from error
    return onnxruntime


def _register_ops(options: Any, folder: Path, spec: EngineSpec) -> None:
    from mask2edge.trt_plugins import OP_VERSION, onnxruntime_ops_library, why_missing

    if spec.op_library_version > OP_VERSION:
        raise InputError(
            f"{folder}: made for version {spec.op_library_version} of the native ops, and {OP_VERSION} is installed; "
            "update mask2edge or build the engine again"
        )
    library = onnxruntime_ops_library()
    if library is None:
        raise InputError(f"{folder}: this engine needs the native ops: {why_missing()}")
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise InputError(
            f"{library}: ONNX Runtime cannot load the native ops ({first_line(error)}); build them again"
        ) from error
