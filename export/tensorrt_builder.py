"""Engine folders for TensorRT: model.plan, layers.json and spec.json, whole or not at all.

    spec = build_tensorrt_engine(Path("model.onnx"), description, Path("artifacts/street-lite-fp16.engine"))

The graph's types are the engine's precision (export/precision.py writes them). The engine is built for the GPU of this
machine, loaded and run once before it gets its name. Plugins stay in the installed library; the engine names its
sha256. Neither torch nor onnx is needed. Tested on the host over doubles; not run on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mask2edge.export.backends import why_no_plugins, why_no_tensorrt
from mask2edge.export.build_progress import BuildProgress
from mask2edge.export.engine_check import check_results, one_line_for_disk_errors, require_engine_name
from mask2edge.export.engine_inspection import LAYERS_FILE, engine_information
from mask2edge.export.onnx_metadata import Description
from mask2edge.export.onnx_nodes import nodes_of
from mask2edge.export.plan_building import build_plan, require_known_ops
from mask2edge.export.tensorrt_options import TensorrtOptions
from mask2edge.export.timing_cache import TimingCache, default_path
from mask2edge.runtime.command_line import InputError, say, sha256_of, whole_folder
from mask2edge.runtime.device_memory import DeviceProperties, open_device
from mask2edge.runtime.session import first_line
from mask2edge.runtime.session_tensorrt import PLAN_FILE, TensorRTSession
from mask2edge.runtime.spec import EngineSpec
from mask2edge.runtime.tensorrt_engine import process_logger
from mask2edge.trt_plugins import OP_VERSION, register_plugins

# GridSample gives wrong values there: masks lost ten points of AP in what users reported.
GRID_SAMPLE_IS_WRONG = ((10, 13), (11, 1))  # first and last version
FIRST_BFLOAT16 = 80  # compute capability


def build_tensorrt_engine(
    model: Any, description: Description, out: Path, options: TensorrtOptions | None = None
) -> EngineSpec:
    """`model`: an ONNX file's path, its bytes, or an onnx.ModelProto. An engine that is there already is replaced.

    Raises InputError where this machine cannot build or run it, or `out` is something else than an engine;
    KeyboardInterrupt after Ctrl-C. Nothing is left behind then, apart from the timing cache of a build that went well.
    """
    options = options or TensorrtOptions()
    require_engine_name(out)
    content = _content(model)
    nodes = nodes_of(content)
    require_known_ops(nodes)
    trt, device = require_tensorrt(), _device()
    require_ops(description.ops, trt.__version__)
    if description.precision == "bf16" and device.sm < FIRST_BFLOAT16:
        raise InputError(
            f"--bf16: {device.name} has compute capability {device.sm / 10:.1f}, and bfloat16 needs "
            f"{FIRST_BFLOAT16 / 10:.1f}; use --fp16"
        )
    logger, errors = process_logger(trt)
    library = _plugins(trt) if description.ops == "custom" else None
    cache = TimingCache(options.timing_cache or default_path(trt.__version__, device.name))
    with one_line_for_disk_errors(out), whole_folder(out) as folder:
        say(f"building for {device.name} with TensorRT {trt.__version__}")
        plan = build_plan(trt, logger, errors, content, description.profile, options, BuildProgress(), cache)
        (folder / PLAN_FILE).write_bytes(plan)
        del plan, content  # the device may share its memory with the CPU
        information = engine_information(trt, logger, errors, (folder / PLAN_FILE).read_bytes(), nodes)
        (folder / LAYERS_FILE).write_text(json.dumps(information, indent=1) + "\n", encoding="utf-8")
        spec = EngineSpec(
            model=description.spec,
            profile=description.profile,
            backend="tensorrt",
            backend_version=trt.__version__,
            precision=description.precision,
            ops=description.ops,
            op_library_version=OP_VERSION,
            files={name: sha256_of(folder / name) for name in (PLAN_FILE, LAYERS_FILE)},
            checkpoint_sha256=description.checkpoint_sha256,
            sm=device.sm,
            plugin_sha256=sha256_of(library) if library else None,
            version_compatible=options.version_compatible,
            calibration=description.calibration,
        )
        spec.save(folder)
        _try_out(folder, spec, out)
    return spec


def _try_out(folder: Path, spec: EngineSpec, out: Path) -> None:
    try:
        with TensorRTSession(folder, spec) as session:
            check_results(session, spec)
    except InputError as error:  # its words name the temporary folder
        raise InputError(
            f"the engine was built, but does not run: {str(error).replace(str(folder), str(out))}"
        ) from error


def require_tensorrt() -> Any:
    """The module. Raises InputError where there is no GPU, or no TensorRT that builds."""
    obstacle = why_no_tensorrt()
    if obstacle:
        raise InputError(f"{obstacle}; use --backend onnxruntime")
    import tensorrt

    return tensorrt


def require_ops(ops: str, version: str) -> None:
    """Raises InputError where this version of TensorRT calculates the standard ops wrongly; else warns of them."""
    if ops != "standard":
        return
    first, last = GRID_SAMPLE_IS_WRONG
    if first <= _major_minor(version) <= last:
        raise InputError(
            f"--ops standard: TensorRT {version} calculates GridSample wrongly (10.13 to 11.1 do), and masks suffer; "
            "use a file exported with --ops custom"
        )
    say("standard ops: the plugins are faster, and no version of TensorRT miscompiles them; use --ops custom")


def _content(model: Any) -> bytes:
    if isinstance(model, Path):
        return model.read_bytes()
    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    return bytes(model)


def _device() -> DeviceProperties:
    with open_device() as device:
        return device.properties


def _plugins(trt: Any) -> Path:
    obstacle = why_no_plugins()
    if obstacle:
        raise InputError(f"the model has custom ops, and their TensorRT plugins are missing: {obstacle}")
    try:
        return register_plugins(trt)
    except (OSError, ValueError) as error:
        raise InputError(first_line(error)) from error


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = ([int(part) for part in version.split(".")[:2] if part.isdigit()] + [0, 0])[:2]
    return major, minor
