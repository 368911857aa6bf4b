"""Looks at a data set before a model does: python train/inspect_data.py ../shared/data/dsb2018

Draws a contact sheet of each split (images above, their segments below) and prints statistics and faults. Exit 0 where
there is no fault, 2 where there are some.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from mask2edge.runtime.command_line import EXIT_BAD_INPUT, InputError, command, positive_number, say, whole_file
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.coco_categories import find_split
from mask2edge.train.data.contact_sheet import contact_sheet
from mask2edge.train.data.formats import FORMATS, open_dataset, recognise, splits
from mask2edge.train.data.inspection import Inspection, inspect

LISTED = 20  # faults and remarks that are printed of each kind; --json has all


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Contact sheet, statistics and faults of a data set. Exit code 2 where it has faults.",
        epilog="example: python train/inspect_data.py ../shared/data/dsb2018 --classes nucleus background",
    )
    parser.add_argument(
        "data", type=Path, metavar="DIR", help="the data set's folder, or a JSON file of COCO instances"
    )
    parser.add_argument("--split", help="one split (default: all)")
    parser.add_argument("--format", choices=FORMATS, default="auto")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="of instance label images")
    parser.add_argument("--limit", type=positive_number, help="read this many images of a split, evenly spread")
    parser.add_argument("--tiles", type=positive_number, default=12, help="images on a sheet")
    parser.add_argument("--out", type=Path, help="the sheet (default: artifacts/<folder>-<split>.jpg)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)

    kind = recognise(arguments.data) if arguments.format == "auto" else arguments.format
    if arguments.classes and kind != "instance-labels":
        raise InputError(f"--classes: expected none, for {arguments.data} names its own classes (format {kind})")
    reports = []
    for split in _chosen(arguments.data, kind, arguments.split):
        data = open_dataset(arguments.data, split, kind, arguments.classes, strict=False)
        shown = functools.partial(tqdm, desc=split, unit="image")
        found = inspect(data, _spread(len(data), arguments.limit), shown)
        sheet = _sheet_path(arguments.data, split, arguments.out, alone=arguments.split is not None)
        _draw(data, arguments.tiles, sheet)
        reports.append({**found.report(), "sheet": str(sheet)})
        if not arguments.json:
            print("\n".join(_lines(found, arguments.data, kind)))
            print(f"  contact sheet: {sheet}")
    faults = sum(len(report["faults"]) for report in reports)
    if arguments.json:
        print(json.dumps({"data": str(arguments.data), "format": kind, "splits": reports, "faults": faults}))
    images = sum(report["images"] for report in reports)
    say(f"{arguments.data}: {images} images, {faults or 'no'} fault{'' if faults == 1 else 's'}")
    return EXIT_BAD_INPUT if faults else 0


def _chosen(root: Path, kind: str, split: str | None) -> tuple[str, ...]:
    found = splits(root, kind)
    if split is None and found:
        return found
    chosen = None if split is None else find_split(found, split)
    if chosen is None:
        raise InputError(f"--split: {root} holds, as {kind}, {', '.join(found) or 'no split'}; got {split!r}")
    return (chosen,)


def _spread(length: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices below `length`, evenly spread."""
    count = length if limit is None else min(limit, length)
    return [index * length // count for index in range(count)]


def _sheet_path(root: Path, split: str, out: Path | None, alone: bool) -> Path:
    if out is None:
        return Path("artifacts") / f"{root.resolve().stem}-{split}.jpg"
    if out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError(f"--out: expected the name of a .jpg or .png file, got {out}")
    return out if alone else out.with_stem(f"{out.stem}-{split}")


def _draw(data: Dataset, tiles: int, path: Path) -> None:
    _, encoded = cv2.imencode(path.suffix, contact_sheet(data, _spread(len(data), tiles)))
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _lines(found: Inspection, root: Path, kind: str) -> Iterator[str]:
    report: dict[str, Any] = found.report()
    yield f"{root} {found.split} ({kind}): {found.images} images"
    sizes = [f"{row['height']}x{row['width']} ({row['images']})" for row in report["sizes"]]
    yield f"  sizes: {', '.join(sizes[:6])}{f', and {len(sizes) - 6} more' if len(sizes) > 6 else ''}"
    per_image, objects = report["segments_per_image"], report["objects"]
    yield (
        f"  segments an image: mean {per_image['mean']:.1f}, median {per_image['median']:g}, at most "
        f"{per_image['max']}; {found.crowds} crowds"
    )
    if found.thing_areas:
        yield (
            f"  objects: {objects['small']} small (below 32² pixels), {objects['medium']} medium (below 96²), "
            f"{objects['large']} large"
        )
    there = [row for row in report["classes"] if row["images"]]
    for row in sorted(there, key=lambda row: -row["pixel_share"]):
        kind_of = {True: "thing", False: "stuff", None: ""}[row["is_thing"]]
        yield (
            f"  {row['name']:<28} {kind_of:<6} {row['segments']:>7} segments in {row['images']:>6} images, "
            f"{100 * row['pixel_share']:5.2f} % of the pixels"
        )
    labelled = sum(row["pixel_share"] for row in report["classes"])
    yield f"  {'(no class)':<28} {100 * max(0.0, 1 - labelled):>43.2f} % of the pixels"
    absent = [row["name"] for row in report["classes"] if not row["images"]]
    if absent:
        names = ", ".join(absent[:LISTED]) + (", …" if len(absent) > LISTED else "")
        yield f"  {len(absent)} of {len(report['classes'])} classes absent: {names}"
    for title, lines in (("fault", found.faults), ("remark", found.remarks)):
        yield from (f"  {title}: {line}" for line in lines[:LISTED])
        if len(lines) > LISTED:
            yield f"  and {len(lines) - LISTED} {title}s more; --json has all"


if __name__ == "__main__":
    sys.exit(main())
