"""Settings as TOML files have them: train/configs by name, and one file over another.

    read_config("street-lite")["train"]["steps"]

What they mean is config.py's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FOLDER = Path(__file__).parent / "configs"


def read_config(name_or_file: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's settings over those of the one that it names as its `base`; `seen`: the files that led here.

    Raises InputError for an unknown name, a damaged file, or a chain of bases without an end.
    """
    beside = [seen[-1].parent / name_or_file] if seen else []  # a base lies beside the file that names it
    places = [CONFIG_FOLDER / f"{name_or_file}.toml", *beside, Path(name_or_file)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        names = ", ".join(sorted(file.stem for file in CONFIG_FOLDER.glob("*.toml")))
        where = f"{seen[-1]}: base" if seen else "--config"
        raise InputError(f"{where}: expected a TOML file or one of {names}; got {name_or_file!r}")
    if path.resolve() in [file.resolve() for file in seen]:
        raise InputError(f"{path}: is its own base; a chain of bases has to end")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected TOML, got {error}") from error
    data.setdefault("name", path.stem)
    base = data.pop("base", None)
    return data if base is None else _over(read_config(str(base), (*seen, path)), data)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above`, and what it does not name from `below`, section by section."""
    result = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            result[key] = _over(below[key], above[key])
    return result


def toml_value(text: str) -> Any:
    """What `--set` gives: a TOML value, or a bare word, a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
