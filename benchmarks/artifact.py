"""Any artifact as a `Segmenter`: an engine folder, an ONNX file, or a checkpoint on PyTorch.

    with open_artifact(Path("models/street-lite.safetensors")) as segmenter:
        segmenter(image, task="semantic").label_map

Preprocessing and post-processing are the runtime's in every case. A checkpoint is run as the engine that is built from
it by default: at the fixed size of its description, images letterboxed into it, unless `size` or `keep_ratio` say
otherwise. torch is imported for a checkpoint alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session_onnxruntime import MODEL_FILE, OnnxRuntimeSession
from mask2edge.runtime.spec import SPEC_FILE, EngineSpec, ModelSpec, Profile
from mask2edge.trt_plugins import OP_VERSION


@contextlib.contextmanager
def open_artifact(
    path: Path,
    size: tuple[int, int] | None = None,
    keep_ratio: bool = False,
    threads: int | None = None,
    detections: int | None = None,
) -> Iterator[Segmenter]:
    """`size` (H, W) and `keep_ratio` are for a checkpoint; an engine or ONNX file has its own. `detections`: the most
    instances of an image, None for the artifact's own. Raises InputError.
    """
    if size is not None and keep_ratio:
        raise InputError("--size and --keep-ratio: expected one of them, got both")
    if path.is_file() and path.suffix == ".safetensors":
        yield _checkpoint(path, size, keep_ratio, threads, detections)
        return
    if size is not None or keep_ratio:
        raise InputError(
            f"{path}: --size and --keep-ratio are for a checkpoint; an engine's size was fixed when it was built"
        )
    if path.is_dir():
        yield Segmenter.load(path, threads=threads, instance_top_k=detections)
    elif path.is_file() and path.suffix == ".onnx":
        with tempfile.TemporaryDirectory(prefix="mask2edge-") as folder:
            yield _onnx_file(path, Path(folder), threads, detections)
    else:
        found = "a file of another kind" if path.exists() else "nothing"
        raise InputError(f"{path}: expected an engine folder, an .onnx or a .safetensors file; found {found}")


def _onnx_file(path: Path, folder: Path, threads: int | None, detections: int | None) -> Segmenter:
    """The file as it is, in the session of an engine; `folder` gets a link to it under an engine's name."""
    from mask2edge.export.onnx_metadata import read_description

    description = read_description(path)
    spec = EngineSpec(
        model=_with_detections(description.spec, detections), profile=description.profile, backend="onnxruntime",
        backend_version="", precision=description.precision, ops=description.ops, op_library_version=OP_VERSION,
        checkpoint_sha256=description.checkpoint_sha256,
    )  # fmt: skip
    (folder / MODEL_FILE).symlink_to(path.resolve())
    return Segmenter(spec, OnnxRuntimeSession(folder, spec, threads), threads)


def sha256_of_artifact(path: Path) -> str:
    """Of the file; of an engine, of its spec.json, which holds the sha256 of every other file."""
    return sha256_of(path / SPEC_FILE if path.is_dir() else path)


def calibration_of(path: Path, spec: EngineSpec) -> str:
    """How the ranges of an int8 artifact were found, "percentile, 32 images"; "" of another precision, or where it does
    not say.
    """
    if spec.precision != "int8" or spec.backend != "onnxruntime":
        return spec.calibration or ""
    from mask2edge.export.onnx_metadata import read_description

    with contextlib.suppress(InputError):  # a file of others may run as well
        return read_description(path / MODEL_FILE if path.is_dir() else path).calibration or ""
    return ""


def _with_detections(model: ModelSpec, detections: int | None) -> ModelSpec:
    if detections is None:
        return model
    rules = dataclasses.replace(model.postprocessing, instance_top_k=detections)
    return dataclasses.replace(model, postprocessing=rules)


def _checkpoint(
    path: Path, size: tuple[int, int] | None, keep_ratio: bool, threads: int | None, detections: int | None
) -> Segmenter:
    try:
        import torch

        from mask2edge.train.checkpoint import load_model
        from mask2edge.train.torch_session import keep_ratio_profile, torch_segmenter
    except ImportError as error:
        raise InputError(
            f"{path}: a checkpoint runs on PyTorch, which cannot be imported ({error}); "
            "pip install 'mask2edge[train]', or measure the engine, which needs none"
        ) from error
    model, checkpoint = load_model(path)
    if keep_ratio:
        profile = keep_ratio_profile(checkpoint.spec.preprocessing)
    else:
        profile = Profile.fixed(*(size or checkpoint.spec.size))
    if threads:
        torch.set_num_threads(threads)
    spec = _with_detections(checkpoint.spec, detections)
    return torch_segmenter(model, spec, profile, sha256_of(path), threads)
