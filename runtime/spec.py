"""What every artifact says about itself: checkpoint, ONNX file and engine carry the same `ModelSpec`.

    spec = EngineSpec.load(Path("artifacts/street-lite-fp16.engine"))
    spec.model.labels[0].name

Standard library only. This is the bottom layer: train, export and runtime import it, it imports nothing of ours
but `command_line`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError, sha256_of

SCHEMA = 1  # raised when a reader of the old schema would misread the new one
SPEC_FILE = "spec.json"
SIZE_DIVISOR = 32  # the coarsest feature map has stride 32
LARGEST_SIDE = 1 << 24  # of an image that a rule asks for; float32 still counts single pixels there
LARGEST_INPUT = 1 << 28  # pixels of a batch: 3 GB as the network takes them
MASK_STRIDE = 4  # mask logits are predicted at a quarter of the input


class SpecError(InputError):
    """An artifact's description is missing, damaged, or from a newer schema."""


@dataclass(frozen=True)
class Label:
    """One class. `id` is the model's class, contiguous from 0; `category_id` is the data set's own number."""

    id: int
    name: str
    is_thing: bool | None  # None: unknown, as in semantic-only data; panoptic output is then refused
    color: tuple[int, int, int]  # RGB
    category_id: int


@dataclass(frozen=True)
class Preprocessing:
    """From a uint8 image to the network's input. The model sees RGB; mean and std are in 0-255 units."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # "keep-ratio" (shortest_edge, longest_edge) or "fixed" (the profile's size, letterboxed)
    resize: str = "keep-ratio"
    shortest_edge: int = 800
    longest_edge: int = 1333

    def __post_init__(self) -> None:
        if self.resize not in ("keep-ratio", "fixed"):
            raise SpecError(f"preprocessing.resize: expected keep-ratio or fixed, got {self.resize!r}")
        edges = (self.shortest_edge, self.longest_edge)
        if not all(isinstance(edge, int) for edge in edges) or not 0 < edges[0] <= edges[1] <= LARGEST_SIDE:
            raise SpecError(
                f"preprocessing: expected 0 < shortest_edge <= longest_edge, got {edges[0]!r:.40}, {edges[1]!r:.40}"
            )


@dataclass(frozen=True)
class Postprocessing:
    """From logits to segments, as maskformer_model.py of the reference does it."""

    object_threshold: float = 0.8  # a panoptic query below this score is dropped
    overlap_threshold: float = 0.8  # a panoptic segment that keeps less than this part of its mask is dropped
    instance_top_k: int = 100
    # "image": mask logits go to the image's size, then scores are formed (models with panoptic or instance output);
    # "padded": scores are formed at the padded input size, then cropped and resized (semantic-only models).
    semantic_order: str = "image"

    def __post_init__(self) -> None:
        if self.semantic_order not in ("image", "padded"):
            raise SpecError(f"postprocessing.semantic_order: expected image or padded, got {self.semantic_order!r}")
        for name in ("object_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise SpecError(f"postprocessing.{name}: expected a number from 0 to 1, got {value!r}")
        if not isinstance(self.instance_top_k, int) or self.instance_top_k < 1:
            raise SpecError(f"postprocessing.instance_top_k: expected 1 or more, got {self.instance_top_k!r}")


@dataclass(frozen=True)
class ModelSpec:
    """What a network means: its labels and how images go in and masks come out."""

    name: str
    labels: tuple[Label, ...]
    num_queries: int
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    tasks: tuple[str, ...] = ("semantic",)  # what it was trained for, of panoptic, instance, semantic
    size: tuple[int, int] = (512, 512)  # (H, W), the padded input that a fixed-size engine takes by default

    def __post_init__(self) -> None:
        if [label.id for label in self.labels] != list(range(len(self.labels))):
            raise SpecError("labels: expected ids 0, 1, 2, … in order")
        unknown = set(self.tasks) - {"panoptic", "instance", "semantic"}
        if unknown or not self.tasks:
            raise SpecError(f"tasks: expected some of panoptic, instance, semantic, got {self.tasks}")

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Raises SpecError where a field is missing, unknown or of the wrong kind."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise SpecError(f"model description: expected JSON, got {error}") from error

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        try:
            return cls(
                name=_text(data["name"]),
                labels=tuple(
                    Label(
                        int(label["id"]),
                        _text(label["name"]),
                        _flag(label["is_thing"]),
                        _triple(label["color"], _byte),
                        int(label["category_id"]),
                    )
                    for label in data["labels"]
                ),
                num_queries=int(data["num_queries"]),
                preprocessing=Preprocessing(
                    **{
                        **data["preprocessing"],
                        "mean": _triple(data["preprocessing"]["mean"], _finite),
                        "std": _triple(data["preprocessing"]["std"], _finite),
                    }
                ),
                postprocessing=Postprocessing(**data["postprocessing"]),
                tasks=tuple(data["tasks"]),
                size=(int(data["size"][0]), int(data["size"][1])),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise SpecError(
                f"model description: a field is missing or of the wrong kind ({error!r}); write the artifact again"
            ) from error


@dataclass(frozen=True)
class Profile:
    """The input sizes that an engine takes, each (N, H, W); a fixed-size engine has all three alike."""

    min: tuple[int, int, int]
    opt: tuple[int, int, int]
    max: tuple[int, int, int]

    def __post_init__(self) -> None:
        if math.prod(self.max) > LARGEST_INPUT:
            raise SpecError(f"profile: expected at most {LARGEST_INPUT} pixels a batch, got {self.max!s:.80}")
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not 0 < low <= best <= high:
                raise SpecError(f"profile: expected 0 < min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        for _, height, width in (self.min, self.opt, self.max):
            if height % SIZE_DIVISOR or width % SIZE_DIVISOR:
                raise SpecError(f"profile: expected sizes that are multiples of {SIZE_DIVISOR}, got {height}x{width}")

    @classmethod
    def fixed(cls, height: int, width: int, batch: int = 1) -> Profile:
        return cls((batch, height, width), (batch, height, width), (batch, height, width))

    @property
    def is_fixed_size(self) -> bool:
        """Height and width cannot change (the batch may)."""
        return self.min[1:] == self.max[1:]


@dataclass(frozen=True)
class EngineSpec:
    """spec.json of an engine folder."""

    model: ModelSpec
    profile: Profile
    backend: str  # "onnxruntime" or "tensorrt"
    backend_version: str  # of the machine that built it
    precision: str  # fp32, fp16, bf16, int8
    ops: str  # "custom": needs the native library; "standard": needs none of our code
    op_library_version: int  # version of the mask2edge operator domain
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256, of every file beside spec.json
    checkpoint_sha256: str | None = None  # of the checkpoint that it came from
    sm: int | None = None  # compute capability of a TensorRT engine
    plugin_sha256: str | None = None  # of the plugin library that a TensorRT engine was built with
    version_compatible: bool = False  # a newer TensorRT runs it too, given the lean runtime of `backend_version`
    calibration: str | None = None  # of an int8 TensorRT engine; a model.onnx says it itself
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        fields = dataclasses.asdict(self)
        if self.calibration is None:  # then the file's checksum is what it was before there was the field
            del fields["calibration"]
        (folder / SPEC_FILE).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EngineSpec:
        """Reads spec.json. Raises SpecError where it is missing, damaged or newer than this code."""
        path = folder / SPEC_FILE
        if not path.is_file():
            raise SpecError(
                f"{folder}: expected an engine folder with {SPEC_FILE}; build one with export/build_engine.py"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            schema = int(data["schema"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise SpecError(
                f"{path}: expected an engine description, got damaged JSON; build the engine again"
            ) from error
        if schema > SCHEMA:
            raise SpecError(
                f"{path}: schema {schema} is newer than {SCHEMA}, which this version reads; "
                "update mask2edge or build the engine again"
            )
        try:
            low, best, high = (_triple(data["profile"][key], int) for key in ("min", "opt", "max"))
            spec = cls(**{**data, "model": ModelSpec.from_dict(data["model"]), "profile": Profile(low, best, high)})
            for name, kind in _KINDS.items():
                if not isinstance(getattr(spec, name), kind):
                    raise SpecError(f"{name} is of the wrong kind; build the engine again")
            return spec
        except InputError as error:
            raise SpecError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"{path}: a field is missing or unknown ({error}); build the engine again") from error

    def verify_files(self, folder: Path) -> None:
        """Raises SpecError where a file is missing or its sha256 is not the one recorded at build time."""
        for name, expected in self.files.items():
            if Path(name).name != name:
                raise SpecError(f"{folder}: expected plain file names in {SPEC_FILE}, got {name!r}")
            path = folder / name
            if not os.path.isfile(path):  # Path.is_file raises where a name is too long
                raise SpecError(f"{path}: missing; build the engine again")
            if sha256_of(path) != expected:
                raise SpecError(
                    f"{path}: sha256 differs from {SPEC_FILE}: the file was changed; build the engine again"
                )


# Of the fields that a dataclass takes as they come, those that code relies on.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "backend": str,
    "backend_version": str,
    "calibration": (str, type(None)),
    "checkpoint_sha256": (str, type(None)),
    "files": dict,
    "op_library_version": int,
    "ops": str,
    "plugin_sha256": (str, type(None)),
    "precision": str,
    "sm": (int, type(None)),
    "version_compatible": bool,
}


def _triple(values: Any, kind: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    first, second, third = values
    return kind(first), kind(second), kind(third)


def _text(value: Any) -> str:
    text = str(value)
    text.encode()  # half of a surrogate pair, which JSON can spell, would fail wherever the text is written
    return text


def _flag(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"is_thing is {value!r:.40}")
    return value


def _byte(value: Any) -> int:
    if not 0 <= int(value) <= 255:
        raise ValueError(f"a colour has {value!r:.40}")
    return int(value)


def _finite(value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"mean or std is {value!r:.40}")
    return float(value)
