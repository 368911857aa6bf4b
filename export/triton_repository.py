"""Writes an engine as a model repository of NVIDIA Triton Inference Server. docs/triton.md has the rest.

    python export/triton_repository.py artifacts/street-lite-fp16.engine --out artifacts/triton
    tritonserver --model-repository "$PWD/artifacts/triton"

NAME is our runtime in Triton's Python backend, around any engine: image files in, label maps and segments out. For a
TensorRT engine there is also NAME_ensemble, in which Triton's own TensorRT backend runs the plan, between
NAME_preprocess and NAME_postprocess. Neither torch nor onnx is needed, and no GPU: the engine is copied, not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.export.engine_check import one_line_for_disk_errors
from mask2edge.export.triton_config import (
    WARMUP_FILE,
    ServingOptions,
    ensemble_config,
    network_config,
    postprocess_config,
    preprocess_config,
    require_batch_of_one,
    segmentation_config,
    text,
)
from mask2edge.runtime.command_line import (
    InputError,
    command,
    natural_number,
    positive_number,
    say,
    sha256_of,
    whole_folder,
)
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.session import Elsewhere
from mask2edge.runtime.session_tensorrt import PLAN_FILE
from mask2edge.runtime.spec import SPEC_FILE, EngineSpec
from mask2edge.runtime.triton_names import ENGINE_FOLDER
from mask2edge.trt_plugins import PLUGIN_LIBRARY_NAME, tensorrt_plugin_library, why_no_plugin_library

CONFIG_FILE = "config.pbtxt"
SUMS_FILE = "SHA256SUMS"  # as sha256sum -c reads it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # what a URL, a file name and the configuration take as it is


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    spec = EngineSpec.load(arguments.engine)
    spec.verify_files(arguments.engine)
    name = arguments.name or arguments.engine.resolve().stem
    if not NAME.fullmatch(name):
        raise InputError(f"--name: expected letters, digits and _ . -, got {name!r}")
    options = _options(arguments, spec)
    models = write_repository(arguments.engine, spec, arguments.out, name, options, arguments.only_model)
    if arguments.json:
        about = {"backend": spec.backend, "task": options.task, "max_batch_size": options.max_batch}
        print(json.dumps({"repository": str(arguments.out), "models": models, **about}))
    else:
        for model in models:
            print(arguments.out / model)
        say(f"start it with: tritonserver --model-repository {arguments.out.resolve()}  (docs/triton.md)")
    return 0


def write_repository(
    engine: Path, spec: EngineSpec, out: Path, name: str, options: ServingOptions, only_model: bool = False
) -> list[str]:
    """Writes the models into the folder `out`, beside others that are there, and returns their names.

    A model of the same name is replaced. Each is whole or absent, and none changes where one cannot be written.
    Raises InputError.
    """
    writers: dict[str, Callable[[Path], None]] = {
        name: lambda folder: _write_model(folder, name, engine, spec, options)
    }
    if spec.backend == "tensorrt" and not only_model:
        writers |= _ensemble_writers(engine, spec, name, options)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: expected a folder, got a file: {out}; choose another name")
    for model in writers:
        target = out / model
        if target.exists() and not (target / CONFIG_FILE).is_file():
            raise InputError(f"--out: {target} exists and is no model of Triton; choose another --name or remove it")
    with one_line_for_disk_errors(out), contextlib.ExitStack() as folders:
        # All are written before the first gets its name; the stack then names them from the last to the first.
        for model, write in writers.items():
            write(folders.enter_context(whole_folder(out / model)))
    return list(writers)


def _ensemble_writers(
    engine: Path, spec: EngineSpec, name: str, options: ServingOptions
) -> dict[str, Callable[[Path], None]]:
    require_batch_of_one(spec)
    library = _plugin_library(engine, spec)
    ensemble, *parts = (f"{name}_{part}" for part in ("ensemble", "preprocess", "network", "postprocess"))
    preprocess, network, postprocess = parts

    def write_ensemble(folder: Path) -> None:
        config = ensemble_config(ensemble, (preprocess, network, postprocess), spec, options)
        _write_config(folder, config)
        (folder / "1").mkdir()
        # Triton refuses a version folder that a copy without empty folders has lost.
        (folder / "1" / "README").write_text("An ensemble has no files of its own.\n", encoding="utf-8")

    def write_step(folder: Path, config: Mapping[str, Any], kind: str) -> None:
        _write_config(folder, config)
        description = folder / "1" / ENGINE_FOLDER
        description.mkdir(parents=True)
        shutil.copyfile(engine / SPEC_FILE, description / SPEC_FILE)
        _write_python(folder / "1", "triton_steps", kind)

    def write_network(folder: Path) -> None:
        _write_config(folder, network_config(network, spec, options))
        (folder / "1").mkdir()
        shutil.copyfile(engine / PLAN_FILE, folder / "1" / PLAN_FILE)
        if library is not None:
            shutil.copyfile(library, folder / "1" / PLUGIN_LIBRARY_NAME)
        _write_sums(folder / "1")

    return {
        ensemble: write_ensemble,
        preprocess: lambda folder: write_step(folder, preprocess_config(preprocess, spec, options), "PreprocessModel"),
        network: write_network,
        postprocess: lambda folder: write_step(
            folder, postprocess_config(postprocess, spec, options), "PostprocessModel"
        ),
    }


def _plugin_library(engine: Path, spec: EngineSpec) -> Path | None:
    """The one that the plan was built with; None for a plan without our ops. Raises InputError."""
    if spec.ops != "custom":
        return None
    library = tensorrt_plugin_library()
    if library is None:
        raise InputError(
            f"{engine}: the ensemble needs the plugin library: {why_no_plugin_library()}; "
            "or leave the ensemble out with --only-model"
        )
    if spec.plugin_sha256 is not None and sha256_of(library) != spec.plugin_sha256:
        say(f"{library} is not the one that the engine was built with; it is used all the same")
    return library


def _write_model(folder: Path, name: str, engine: Path, spec: EngineSpec, options: ServingOptions) -> None:
    _write_config(folder, segmentation_config(name, spec, options))
    target = folder / "1" / ENGINE_FOLDER
    target.mkdir(parents=True)
    for file in (SPEC_FILE, *spec.files):
        shutil.copyfile(engine / file, target / file)
    spec.verify_files(target)
    _write_python(folder / "1", "triton_model", "SegmentationModel")
    _write_warmup(folder, spec)


def _write_python(version: Path, module: str, kind: str) -> None:
    content = (
        '"""Written by export/triton_repository.py of mask2edge, which the server\'s Python needs: docs/triton.md."""\n'
        f"\nfrom mask2edge.runtime.{module} import {kind} as TritonPythonModel  # noqa: F401\n"
    )
    (version / "model.py").write_text(content, encoding="utf-8")
    _write_sums(version)


def _write_sums(version: Path) -> None:
    files = sorted(path for path in version.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(version).as_posix()}\n" for path in files]
    (version / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / CONFIG_FILE).write_text(text(config), encoding="utf-8")


def _write_warmup(folder: Path, spec: EngineSpec) -> None:
    """A picture of the network's size, as Triton reads one string: its length in 4 bytes, then itself."""
    _, height, width = spec.profile.opt
    picture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)  # [H, W, 3]
    data = cv2.imencode(".png", picture)[1].tobytes()
    (folder / "warmup").mkdir()
    (folder / "warmup" / WARMUP_FILE).write_bytes(len(data).to_bytes(4, "little") + data)


def _options(arguments: argparse.Namespace, spec: EngineSpec) -> ServingOptions:
    most = spec.profile.max[0]
    max_batch = arguments.max_batch or most
    if max_batch > most:
        raise InputError(
            f"--max-batch: expected at most {most}, the engine's largest batch, got {max_batch}; "
            "build the engine with a larger one (--dynamic --max NxHxW)"
        )
    return ServingOptions(
        task=Segmenter(spec, Elsewhere()).check_task(arguments.task),
        max_batch=max_batch,
        max_delay_us=arguments.max_delay_us,
        max_queue=arguments.max_queue,
        instances=arguments.instances,
        gpu=spec.backend == "tensorrt",
        threads=arguments.threads,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write an engine as a model repository of NVIDIA Triton Inference Server.",
        epilog="example: python export/triton_repository.py artifacts/street-lite-fp16.engine --out artifacts/triton",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument("--out", type=Path, required=True, help="the model repository; other models in it are kept")
    parser.add_argument("--name", help="the model's name (default: the engine's)")
    parser.add_argument("--task", choices=TASKS, help="where a request names none (default: the engine's own)")
    parser.add_argument("--max-batch", type=positive_number, help="requests in a batch (default: the engine's most)")
    parser.add_argument(
        "--max-delay-us", type=natural_number, default=2000,
        help="microseconds that a request waits for others to share a batch (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-queue", type=positive_number, default=256,
        help="requests that may wait; more are refused at once (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--instances", type=positive_number, default=1, help="copies of each model, a process each (default: 1)"
    )
    parser.add_argument("--threads", type=natural_number, default=0, help="of one copy on the CPU; 0: all (default)")
    parser.add_argument("--only-model", action="store_true", help="TensorRT: without the ensemble")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
