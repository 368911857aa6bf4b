"""Reads what a mask2edge ONNX file says about itself, without the onnx package and without loading the weights.

    description = read_description(Path("artifacts/street-lite.onnx"))
    description.spec.labels, description.profile, description.precision

A device that builds an engine from an ONNX file needs neither torch nor onnx for it. The file is one protobuf message;
`metadata_props` is its field 14, and all other fields are skipped by their length.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import ModelSpec, Profile

SCHEMA = "1"
METADATA_PROPS = 14  # field numbers of onnx.proto: ModelProto, then StringStringEntryProto
KEY, VALUE = 1, 2
VARINT, LENGTH, FIXED = 0, 2, {1: 8, 5: 4}  # protobuf wire types; fixed ones and their bytes


@dataclass(frozen=True)
class Description:
    """The `mask2edge.*` entries of an ONNX file's metadata."""

    spec: ModelSpec
    profile: Profile
    ops: str  # "custom" or "standard"
    precision: str  # of the stored weights: "fp32" or "fp16"
    checkpoint_sha256: str | None
    calibration: str | None = None  # of int8, how the ranges were found: "percentile, 32 images"

    def to_metadata(self) -> dict[str, str]:
        sizes = {"min": self.profile.min, "opt": self.profile.opt, "max": self.profile.max}
        entries = {
            "mask2edge.schema": SCHEMA,
            "mask2edge.spec": self.spec.to_json(),
            "mask2edge.profile": json.dumps(sizes),
            "mask2edge.ops": self.ops,
            "mask2edge.precision": self.precision,
        }
        if self.checkpoint_sha256:
            entries["mask2edge.checkpoint_sha256"] = self.checkpoint_sha256
        if self.calibration:
            entries["mask2edge.calibration"] = self.calibration
        return entries

    @classmethod
    def from_metadata(cls, entries: dict[str, str], where: str) -> Description:
        """Raises InputError that names `where`."""
        schema = entries.get("mask2edge.schema")
        if schema is None:
            raise InputError(f"{where}: expected an ONNX file of export/to_onnx.py, got one without our description")
        if schema != SCHEMA:
            raise InputError(f"{where}: expected ONNX schema {SCHEMA}, got {schema}; update mask2edge or export again")
        try:
            sizes = {
                key: tuple(int(n) for n in value) for key, value in json.loads(entries["mask2edge.profile"]).items()
            }
            return cls(
                spec=ModelSpec.from_json(entries["mask2edge.spec"]),
                profile=Profile(**sizes),
                ops=entries["mask2edge.ops"],
                precision=entries["mask2edge.precision"],
                checkpoint_sha256=entries.get("mask2edge.checkpoint_sha256"),
                calibration=entries.get("mask2edge.calibration"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: its description is damaged ({error}); export the model again") from error


def read_description(path: Path) -> Description:
    """Raises InputError for a file that is missing, cut short, no ONNX file, or not one of ours."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX file written by export/to_onnx.py")
    try:
        with path.open("rb") as file:
            entries = dict(_entries(file, path.stat().st_size))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a whole ONNX file, got {error}; copy or export it again") from error
    return Description.from_metadata(entries, str(path))


def _entries(file: BinaryIO, size: int) -> Iterator[tuple[str, str]]:
    for _, content in _fields(file, size, {METADATA_PROPS}):
        entry = dict(_fields(io.BytesIO(content), len(content), {KEY, VALUE}))
        yield entry.get(KEY, b"").decode(), entry.get(VALUE, b"").decode()


def _fields(file: BinaryIO, size: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Number and content of the wanted fields; the others are skipped unread."""
    while file.tell() < size:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            _varint(file)
            continue
        if wire == LENGTH:
            length = _varint(file)
        elif wire in FIXED:
            length = FIXED[wire]
        else:
            raise ValueError(f"an unknown field at byte {file.tell()}")
        if file.tell() + length > size:
            raise ValueError(f"{size} bytes of at least {file.tell() + length}")
        if number in wanted and wire == LENGTH:
            yield number, file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("an end inside a field")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
