"""Any artifact as a `Segmenter`: an engine folder, an ONNX file, or a checkpoint on PyTorch.

    with open_artifact(Path("models/street-lite.safetensors")) as segmenter:
        segmenter(image, task="semantic").label_map

Preprocessing and post-processing are the runtime's in every case. A checkpoint is run as the engine that is built from
it by default: at the fixed size of its description, images letterboxed into it, unless `size` or `keep_ratio` say
otherwise. torch is imported for a checkpoint alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session_onnxruntime import MODEL_FILE, OnnxRuntimeSession
from mask2edge.runtime.spec import SIZE_DIVISOR, SPEC_FILE, EngineSpec, Preprocessing, Profile
from mask2edge.trt_plugins import OP_VERSION


class TorchSession:
    """A checkpoint's network with the `run` of an engine's session, in float32."""

    def __init__(self, model: Any, threads: int | None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._model = model

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        import torch

        with torch.inference_mode():
            output = self._model(torch.from_numpy(np.ascontiguousarray(pixels)))
        return {name: output[name].numpy() for name in ("class_logits", "mask_logits")}


@contextlib.contextmanager
def open_artifact(
    path: Path, size: tuple[int, int] | None = None, keep_ratio: bool = False, threads: int | None = None
) -> Iterator[Segmenter]:
    """`size` (H, W) and `keep_ratio` are for a checkpoint; an engine or ONNX file has its own. Raises InputError."""
    if size is not None and keep_ratio:
        raise InputError("--size and --keep-ratio: expected one of them, got both")
    if path.is_file() and path.suffix == ".safetensors":
        yield _checkpoint(path, size, keep_ratio, threads)
        return
    if size is not None or keep_ratio:
        raise InputError(
            f"{path}: --size and --keep-ratio are for a checkpoint; an engine's size was fixed when it was built"
        )
    if path.is_dir():
        yield Segmenter.load(path, threads=threads)
    elif path.is_file() and path.suffix == ".onnx":
        with tempfile.TemporaryDirectory(prefix="mask2edge-") as folder:
            yield _onnx_file(path, Path(folder), threads)
    else:
        found = "a file of another kind" if path.exists() else "nothing"
        raise InputError(f"{path}: expected an engine folder, an .onnx or a .safetensors file; found {found}")


def _onnx_file(path: Path, folder: Path, threads: int | None) -> Segmenter:
    """The file as it is, in the session of an engine; `folder` gets a link to it under an engine's name."""
    from mask2edge.export.onnx_metadata import read_description

    description = read_description(path)
    spec = EngineSpec(
        model=description.spec, profile=description.profile, backend="onnxruntime", backend_version="",
        precision=description.precision, ops=description.ops, op_library_version=OP_VERSION,
        checkpoint_sha256=description.checkpoint_sha256,
    )  # fmt: skip
    (folder / MODEL_FILE).symlink_to(path.resolve())
    return Segmenter(spec, OnnxRuntimeSession(folder, spec, threads), threads)


def sha256_of_artifact(path: Path) -> str:
    """Of the file; of an engine, of its spec.json, which holds the sha256 of every other file."""
    return sha256_of(path / SPEC_FILE if path.is_dir() else path)


def _checkpoint(path: Path, size: tuple[int, int] | None, keep_ratio: bool, threads: int | None) -> Segmenter:
    try:
        from mask2edge.train.checkpoint import load_model
    except ImportError as error:
        raise InputError(
            f"{path}: a checkpoint runs on PyTorch, which cannot be imported ({error}); "
            "pip install 'mask2edge[train]', or measure the engine, which needs none"
        ) from error
    model, checkpoint = load_model(path)
    profile = (
        keep_ratio_profile(checkpoint.spec.preprocessing)
        if keep_ratio
        else Profile.fixed(*(size or checkpoint.spec.size))
    )
    spec = EngineSpec(
        model=checkpoint.spec, profile=profile, backend="torch", backend_version="", precision="fp32", ops="standard",
        op_library_version=0, checkpoint_sha256=sha256_of(path),
    )  # fmt: skip
    return Segmenter(spec, TorchSession(model, threads), threads)


def keep_ratio_profile(rules: Preprocessing) -> Profile:
    """A profile that never limits an image resized by `rules`, as that of a dynamic engine of enough size."""
    longest = -(-rules.longest_edge // SIZE_DIVISOR) * SIZE_DIVISOR
    return Profile((1, SIZE_DIVISOR, SIZE_DIVISOR), (1, longest, longest), (1, longest, longest))
