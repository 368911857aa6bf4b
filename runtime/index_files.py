"""Lists of JSON that may be longer than memory: entries wait in a temporary file until the whole is written.

with JsonList() as images:
    images.append({"id": 1})
    write_object(path, {"images": images, "categories": [...]})
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mask2edge.runtime.command_line import whole_file

IN_MEMORY = 1 << 20  # characters of a short list, which needs no file


class JsonList:
    """Grows by `append`; written by `write_object` and `write_list`."""

    def __init__(self) -> None:
        self._text = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> JsonList:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()

    def append(self, entry: Any) -> None:
        self._text.write((", " if self._count else "") + json.dumps(entry))
        self._count += 1

    def extend(self, entries: Iterable[Any]) -> None:
        for entry in entries:
            self.append(entry)

    def copy_to(self, file: TextIO) -> None:
        file.write("[")
        self._text.seek(0)
        shutil.copyfileobj(self._text, file)
        file.write("]")


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON object, some of whose values are `JsonList`s; whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for number, (key, value) in enumerate(content.items()):
            file.write((", " if number else "") + json.dumps(key) + ": ")
            if isinstance(value, JsonList):
                value.copy_to(file)
            else:
                file.write(json.dumps(value))
        file.write("}\n")


def write_list(path: Path, entries: JsonList) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        entries.copy_to(file)
        file.write("\n")
