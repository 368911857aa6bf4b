"""Several classes made one, by a small table: {"vehicle": ["car", "truck", "bus"]}.

    data = merged(data, {"vehicle": ["car", "truck", "bus"], "ignore": ["other"]})

Classes that the table does not name stay. Those under `ignore` are left out: their pixels count for nothing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.config import load_config
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.relabelled import Relabelled

IGNORED = "ignore"


def merged(data: Dataset, table: Mapping[str, Sequence[str]]) -> Dataset:
    """`data` with the table's classes. A merged class stands where its first member stood, with its colour.

    Things stay apart; segments of stuff, and of classes without instances, that are of one class now become one.
    Raises InputError for a class that the data does not have, that is named twice, or for things merged with stuff.
    """
    names = [label.name for label in data.labels]
    goes_to: dict[str, str] = {}  # a member -> its new class
    for name, members in table.items():
        if not members or (name in names and name not in members):
            raise InputError(
                f"data.merge.{name}: expected the classes that become {name!r}, with itself where it is one of them; "
                f"got {list(members)}"
            )
        for member in members:
            if member not in names:
                near = difflib.get_close_matches(member, names, 3) or names[:3]
                raise InputError(f"data.merge.{name}: {data.root} has no class {member!r}; nearest: {', '.join(near)}")
            if member in goes_to:
                raise InputError(f"data.merge: {member!r} is under {goes_to[member]!r} and {name!r}; name it once")
            goes_to[member] = name
    labels: dict[str, Label] = {}
    for label in data.labels:
        name = goes_to.get(label.name, label.name)
        if goes_to.get(label.name) == IGNORED:
            continue
        first = labels.setdefault(name, replace(label, id=len(labels), name=name))
        if first.is_thing != label.is_thing:
            raise InputError(f"data.merge.{name}: expected things alone or stuff alone, got both ({label.name})")
    if not labels:
        raise InputError("data.merge: every class is ignored; expected some to be left")
    classes = [-1 if goes_to.get(name) == IGNORED else labels[goes_to.get(name, name)].id for name in names]  # [old K]
    return Relabelled(data, list(labels.values()), classes, [not label.is_thing for label in labels.values()])


def read_merge_table(path: Path) -> dict[str, list[str]]:
    """A JSON object of lists of names; or a training's configuration (TOML), its data.merge or data.merge_file.

    Raises InputError.
    """
    if path.suffix != ".toml" or not path.is_file():
        return _read_json(path)
    data = load_config(str(path)).data
    if data.merge_file:
        return _read_json(Path(data.merge_file))
    if not data.merge:
        raise InputError(f"{path}: expected a table [data.merge], or data.merge_file; got neither")
    return {name: list(members) for name, members in data.merge.items()}


def _read_json(path: Path) -> dict[str, list[str]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f'{path}: expected a JSON object such as {{"vehicle": ["car", "bus"]}}, got {error}'
        ) from error
    if not isinstance(table, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in table.values()
    ):
        raise InputError(f'{path}: expected a JSON object such as {{"vehicle": ["car", "bus"]}}, got {str(table)[:60]}')
    return table
