"""Engine folders for ONNX Runtime: model.onnx and spec.json, whole or not at all.

    build_onnxruntime_engine(Path("model.onnx"), description, Path("artifacts/street-lite-fp32.engine"))

The engine is loaded and run once before it gets its name. No torch, no onnx.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mask2edge.export.engine_check import check_results, one_line_for_disk_errors, require_engine_name
from mask2edge.export.onnx_metadata import Description
from mask2edge.runtime.command_line import InputError, sha256_of, whole_folder
from mask2edge.runtime.session_onnxruntime import MODEL_FILE, OnnxRuntimeSession
from mask2edge.runtime.spec import EngineSpec
from mask2edge.trt_plugins import OP_VERSION, onnxruntime_ops_library, why_missing


def build_onnxruntime_engine(model: Path, description: Description, out: Path) -> EngineSpec:
    """Copies `model` into the engine folder `out` and describes it; an engine that is there already is replaced.

    Raises InputError where the machine cannot run the model, or `out` is something else than an engine.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"--backend onnxruntime: ONNX Runtime cannot be imported ({error}); pip install 'onnxruntime>=1.18'"
        ) from error
    require_engine_name(out)
    if description.ops == "custom" and onnxruntime_ops_library() is None:
        raise InputError(
            f"{model}: it has custom ops, and their library is missing: {why_missing()}; "
            "or use a file exported with --ops standard"
        )
    with one_line_for_disk_errors(out), whole_folder(out) as folder:
        shutil.copyfile(model, folder / MODEL_FILE)
        spec = EngineSpec(
            model=description.spec,
            profile=description.profile,
            backend="onnxruntime",
            backend_version=onnxruntime.__version__,
            precision=description.precision,
            ops=description.ops,
            op_library_version=OP_VERSION,
            files={MODEL_FILE: sha256_of(folder / MODEL_FILE)},
            checkpoint_sha256=description.checkpoint_sha256,
        )
        spec.save(folder)
        check_engine(folder)
    return spec


def check_engine(folder: Path) -> None:
    """Loads an engine as the runtime does and runs it once. Raises InputError where that fails."""
    spec = EngineSpec.load(folder)
    spec.verify_files(folder)
    check_results(OnnxRuntimeSession(folder, spec), spec)
