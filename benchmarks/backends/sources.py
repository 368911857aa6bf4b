"""From what is named on the command line to the backends that run it and the checkpoint that they are compared with.

    subject = subject_of(Path("artifacts/street-lite-fp16.engine"))
    subject.checkpoint, subject.precision, subject.backends(pixels.shape)

A checkpoint goes through each backend as the engine that `export/build_engine.py` would make of it, with its stages
marked as further outputs. An ONNX file is run as it is, marked likewise. An engine is run by its own session.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from mask2edge.benchmarks.backends.comparison import Backend
from mask2edge.benchmarks.backends.runners import OnnxRunner, SegmenterRunner, Shape
from mask2edge.export.backends import PRECISIONS, why_no_plugins, why_no_tensorrt
from mask2edge.export.build_engine import parse
from mask2edge.export.emulation import emulated
from mask2edge.export.engine_sources import graph_of
from mask2edge.export.onnx_metadata import Description, read_description
from mask2edge.export.tensorrt_options import options_from_arguments
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import EngineSpec, Profile
from mask2edge.trt_plugins import onnxruntime_ops_library, why_missing

ROOT = Path(__file__).resolve().parents[2]
MakeGraph = Callable[[], onnx.ModelProto]
RESULTS_ALONE = "a finished engine is fused and has no inner stages: its results alone are compared"


@dataclass(frozen=True)
class Subject:
    """`profile`: the input sizes of what was built already, None for a checkpoint; `backends`: of an input's shape."""

    checkpoint: Path
    precision: str
    profile: Profile | None
    backends: Callable[[Shape], list[Backend]]


def subject_of(
    source: Path, checkpoint: Path | None = None, precision: str | None = None, flags: Sequence[str] = ()
) -> Subject:
    """`checkpoint`: of an engine or ONNX file, where it is not to be looked for; `precision` (None: fp32) and `flags`,
    which are build_engine.py's: of the engines that are made of a checkpoint. Raises InputError.
    """
    if source.suffix == ".safetensors":
        if checkpoint is not None:
            raise InputError(f"--checkpoint: expected together with an engine or an ONNX file, got {source}")
        wished = precision or "fp32"
        return Subject(source, wished, None, lambda shape: backends_of_checkpoint(source, wished, flags, shape))
    if precision or flags:
        given = flags[0] if flags else "--precision"
        raise InputError(f"{given}: expected together with a checkpoint, got {source}, which was built already")
    if source.is_dir():
        spec = EngineSpec.load(source)
        origin = checkpoint_of(source, spec.checkpoint_sha256, checkpoint)
        return Subject(origin, spec.precision, spec.profile, lambda shape: backends_of_engine(source, spec, shape))
    if source.is_file() and source.suffix == ".onnx":
        file = read_description(source)
        origin = checkpoint_of(source, file.checkpoint_sha256, checkpoint)
        return Subject(origin, file.precision, file.profile, lambda shape: backends_of_onnx(source, file, shape))
    found = "a file of another kind" if source.exists() else "nothing"
    raise InputError(f"{source}: expected a .safetensors file, an .onnx file or an engine folder; found {found}")


def backends_of_checkpoint(source: Path, precision: str, flags: Sequence[str], shape: Shape) -> list[Backend]:
    """`flags`: of build_engine.py, besides precision, backend and ops."""
    flags = [f"--{precision}", *flags]
    library = onnxruntime_ops_library()
    backends = []
    for ops in ("standard", "custom"):
        if precision not in PRECISIONS["onnxruntime"]:
            obstacle = f"ONNX Runtime has no {precision} on the CPU"
        else:
            obstacle = why_missing() if ops == "custom" and library is None else ""
        about = f"ONNX Runtime, {ops} ops, {precision}"
        graph = _Graph(source, [*flags, "--ops", ops], "onnxruntime")
        backends.append(_onnx_backend(f"onnxruntime-{ops}", about, obstacle, shape, graph))
    if precision != "fp32":  # whose graph is that of ONNX Runtime
        ops = "standard" if library is None else "custom"
        about = f"TensorRT's typed graph in {precision}, emulated on the CPU, {ops} ops"
        typed = _Graph(source, [*flags, "--ops", ops], "tensorrt")
        backends.append(_onnx_backend("tensorrt-emulated", about, "", shape, lambda: emulated(typed())))
    return [*backends, _tensorrt_backend(source, flags, "custom", precision, shape)]


def backends_of_onnx(source: Path, file: Description, shape: Shape) -> list[Backend]:
    obstacle = why_missing() if file.ops == "custom" and onnxruntime_ops_library() is None else ""
    about = f"ONNX Runtime, the file as it is, {file.ops} ops, {file.precision}"
    return [
        _onnx_backend("onnxruntime", about, obstacle, shape, lambda: onnx.load(source)),
        _tensorrt_backend(source, [], file.ops, file.precision, shape),
    ]


def backends_of_engine(source: Path, spec: EngineSpec, shape: Shape) -> list[Backend]:
    about = f"the engine, {spec.backend} {spec.backend_version}, {spec.ops} ops, {spec.precision}"
    runner = SegmenterRunner(f"{spec.backend}-engine", lambda: Segmenter.load(source), shape)
    return [Backend(runner.name, about, runner, note=RESULTS_ALONE)]


def checkpoint_of(source: Path, wanted: str | None, given: Path | None) -> Path:
    """The file that `source` was made from, by its sha256: `given`, or found beside `source` or in models/.

    Raises InputError where it is not there, or `given` is another.
    """
    if given is not None:
        if given.is_file() and wanted is not None and sha256_of(given) != wanted:
            raise InputError(
                f"--checkpoint {given}: expected the file that {source} was made from (sha256 {wanted[:12]}…), got "
                "another; name that one, or build again from this one"
            )
        return given
    folders = dict.fromkeys((source.resolve().parent, Path("models").resolve(), ROOT / "models"))
    candidates = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    for path in candidates if wanted else ():
        if sha256_of(path) == wanted:
            return path
    origin = f"sha256 {wanted[:12]}…" if wanted else "which it does not name"
    raise InputError(
        f"{source}: expected the checkpoint that it was made from ({origin}) beside it or in models/, found none; "
        "name it with --checkpoint FILE"
    )


class _Graph:
    """What `build_engine.py source flags` would give to the backend, made when it is called."""

    def __init__(self, source: Path, flags: Sequence[str], backend: str) -> None:
        self._source, self._flags, self._backend = source, flags, backend

    def __call__(self) -> onnx.ModelProto:
        arguments = parse([str(self._source), *self._flags, "--backend", self._backend])
        # Not verified: an export that is wrong is what this is for.
        graph = graph_of(self._source, arguments, self._backend, verified=False)
        return onnx.load(graph.model) if isinstance(graph.model, Path) else graph.model


def _onnx_backend(name: str, about: str, obstacle: str, shape: Shape, make: MakeGraph) -> Backend:
    return Backend(name, about, None if obstacle else OnnxRunner(name, make, shape), obstacle)


def _tensorrt_backend(source: Path, flags: Sequence[str], ops: str, precision: str, shape: Shape) -> Backend:
    name, about = "tensorrt", f"TensorRT, an engine built now, {ops} ops, {precision}"
    obstacle = why_no_tensorrt() or (why_no_plugins() if ops == "custom" else "")
    if obstacle:
        return Backend(name, about, obstacle=obstacle)
    runner = SegmenterRunner(name, lambda: _tensorrt_engine(source, flags), shape)
    return Backend(name, about, runner, note=RESULTS_ALONE)


@contextmanager
def _tensorrt_engine(source: Path, flags: Sequence[str]) -> Iterator[Segmenter]:
    from mask2edge.export.tensorrt_builder import build_tensorrt_engine

    arguments = parse([str(source), *flags, "--backend", "tensorrt"])
    graph = graph_of(source, arguments, "tensorrt", verified=False)
    with tempfile.TemporaryDirectory(prefix="mask2edge-") as folder:
        engine = Path(folder) / "compared.engine"
        build_tensorrt_engine(graph.model, graph.description, engine, options_from_arguments(arguments))
        with Segmenter.load(engine) as segmenter:
            yield segmenter
