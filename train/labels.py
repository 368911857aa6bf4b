"""Class tables: the names, things and stuff, colours and category ids that a checkpoint's classes mean.

    labels = load_labels("cityscapes")             # or a JSON file's path
    labels = labels_from_names(["cat", "dog"])

Facts live in labels/*.json, one table for each data set; the instance tables are the things of the panoptic ones.
Where a data set defines no colours, distinct ones are generated, the same in every run.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label

TABLE_FOLDER = Path(__file__).parent / "labels"

# name -> (file in labels/, which of its classes: "all", "things", or "semantic" = all, things unknown)
TABLES = {
    "coco-panoptic": ("coco-panoptic", "all"),
    "coco-instance": ("coco-panoptic", "things"),
    "ade20k": ("ade20k-panoptic", "semantic"),  # scene parsing: annotations without instances
    "ade20k-panoptic": ("ade20k-panoptic", "all"),
    "ade20k-instance": ("ade20k-panoptic", "things"),
    "cityscapes": ("cityscapes", "all"),
    "cityscapes-instance": ("cityscapes", "things"),
    "mapillary": ("mapillary", "all"),
}

FIELDS = ("id", "name", "is_thing", "color", "category_id")


def load_labels(name_or_json_path: str | Path) -> tuple[Label, ...]:
    """The table of that name (TABLES), or of a JSON file: a list of names, or of objects with the fields of Label.

    In a file only `name` is required; else `id` is the position, `category_id` the id, `color` generated, `is_thing`
    unknown.
    Raises InputError for an unknown name, a damaged file, or ids that are not 0, 1, 2, … in order.
    """
    name = str(name_or_json_path)
    if name not in TABLES:
        return _read(Path(name_or_json_path))
    file, part = TABLES[name]
    rows = _read_json(TABLE_FOLDER / f"{file}.json")
    if part == "things":
        rows = [{**row, "id": i} for i, row in enumerate(row for row in rows if row["is_thing"])]
    elif part == "semantic":
        rows = [{**row, "is_thing": None} for row in rows]
    return _labels(rows, file)


def labels_from_names(names: Sequence[str], is_thing: Sequence[bool | None] | None = None) -> tuple[Label, ...]:
    """Labels with ids and category ids 0, 1, 2, … and generated colours. Raises InputError where the lengths differ."""
    if is_thing is not None and len(is_thing) != len(names):
        raise InputError(f"labels: expected is_thing for each of {len(names)} names, got {len(is_thing)}")
    things = [None] * len(names) if is_thing is None else is_thing
    return _labels([{"name": name, "is_thing": thing} for name, thing in zip(names, things, strict=True)], "labels")


def distinct_color(index: int) -> tuple[int, int, int]:
    """RGB of the index-th generated colour: hues a golden section apart, in rings of saturation and brightness."""
    hue = (0.02 + index * 0.618033988749895) % 1.0
    saturation = (0.85, 0.55, 0.70)[index % 3]
    value = (0.95, 0.70, 0.85, 0.55)[index // 3 % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def is_color(value: Any) -> bool:
    """Whether a value of a JSON file is [red, green, blue] of 0 to 255."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
    )


def _read(path: Path) -> tuple[Label, ...]:
    if not path.is_file():
        raise InputError(f"labels: expected a JSON file or one of {', '.join(TABLES)}; got {str(path)!r}")
    return _labels(_read_json(path), str(path))


def _read_json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path}: expected a JSON list of labels, got {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a JSON list of names or of objects with a name, got {str(rows)[:60]}")
    return rows


def _labels(rows: list[Any], where: str) -> tuple[Label, ...]:
    return tuple(_label(row, index, f"{where}, label {index}") for index, row in enumerate(rows))


def _label(row: Any, index: int, where: str) -> Label:
    row = {"name": row} if isinstance(row, str) else row
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a name or an object with {', '.join(FIELDS)}, got {row!r}")
    if unknown := sorted(set(row) - set(FIELDS)):
        raise InputError(f"{where}: unknown key {', '.join(map(str, unknown))}; known here: {', '.join(FIELDS)}")
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: expected a name, got {name!r}")
    if row.get("id", index) != index:
        raise InputError(f"{where}: expected id {index} (ids are 0, 1, 2, … in order), got {row['id']!r}")
    thing = row.get("is_thing")
    if thing is not None and not isinstance(thing, bool):
        raise InputError(f"{where}: expected is_thing true, false or null, got {thing!r}")
    category = row.get("category_id", index)
    if not isinstance(category, int) or isinstance(category, bool):
        raise InputError(f"{where}: expected a whole number as category_id, got {category!r}")
    return Label(index, name, thing, _color(row.get("color"), index, where), category)


def _color(color: Any, index: int, where: str) -> tuple[int, int, int]:
    if color is None:
        return distinct_color(index)
    if not is_color(color):
        raise InputError(f"{where}: expected a colour [red, green, blue] of 0 to 255, or null, got {color!r}")
    return color[0], color[1], color[2]
