"""The JSON files of COCO's formats: read, checked for what every reader needs, and their categories as labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label
from mask2edge.train.labels import distinct_color, is_color


def read_coco_json(path: Path) -> dict[str, Any]:
    """Raises InputError for a missing or damaged file, or one without images, annotations and categories."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a JSON file in COCO's format") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file in COCO's format, got {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise InputError(f"{path}: expected COCO's format with a list {key!r}, which is not there")
    if not data["images"]:
        raise InputError(f"{path}: expected images, got an empty list")
    return data


def labels_of_categories(categories: Sequence[Mapping[str, Any]], path: Path, all_things: bool) -> tuple[Label, ...]:
    """Labels in the order of the category ids (COCO's own order: things, then stuff).

    A colour that is not [red, green, blue], such as "#e1d0a3", is replaced by a generated one: tools write many kinds,
    and it changes nothing but pictures.

    all_things: instance data, whose categories say nothing about stuff. Raises InputError for one without id or name.
    """
    try:
        rows = sorted((int(row["id"]), str(row["name"]), row) for row in categories)
        things = [True if all_things else bool(row["isthing"]) for _, _, row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected categories with id, name{'' if all_things else ', isthing'}; got {error!r}"
        ) from error
    if len({category for category, _, _ in rows}) != len(rows) or not rows:
        raise InputError(f"{path}: expected categories, each with an id of its own; got {len(rows)} with ids repeated")
    return tuple(
        Label(index, name, thing, _color(row.get("color"), index), category)
        for index, ((category, name, row), thing) in enumerate(zip(rows, things, strict=True))
    )


def _color(value: Any, index: int) -> tuple[int, int, int]:
    return (value[0], value[1], value[2]) if is_color(value) else distinct_color(index)


def find_split(names: Sequence[str], split: str) -> str | None:
    """`train` also means the only split that begins so (train2017)."""
    if split in names:
        return split
    longer = [name for name in names if name.startswith(split)]
    return longer[0] if len(longer) == 1 else None


def image_folder(root: Path, split: str) -> Path:
    """SPLIT/ or images/SPLIT/. Raises InputError where neither is there."""
    for folder in (root / split, root / "images" / split):
        if folder.is_dir():
            return folder
    raise InputError(f"{root}: expected the images in {split}/ or images/{split}/, found neither")
