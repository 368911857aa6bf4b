"""Cuts a data set of instance label images into tiles, so that an image holds fewer objects.

    python benchmarks/image_tiles.py ../shared/data/dsb2018 artifacts/dsb2018-quarters

For ablations under a small budget: learned queries take thousands of steps to find the nuclei of a whole image, and
until then every row has the same AP, none. A tile is half the image's shorter edge on each side, so that a square image
becomes its quarters. Objects on an edge are cut; sizes of objects relative to one another stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError, command, say, whole_folder
from mask2edge.train.data.image_file import read_index_map, read_rgb, require_same_size
from mask2edge.train.data.instance_labels import InstanceLabels, splits


def tiles(height: int, width: int) -> Iterator[tuple[str, slice, slice]]:
    """(row and column as a name, rows, columns) of the tiles, which cover an image once; about square."""
    half = min(height, width) / 2
    down, across = round(height / half), round(width / half)
    for row in range(down):
        for column in range(across):
            rows = slice(height * row // down, height * (row + 1) // down)
            columns = slice(width * column // across, width * (column + 1) // across)
            yield f"{row}{column}", rows, columns


def cut(data: InstanceLabels, out: Path) -> int:
    """Writes the tiles of a split as PNGs; how many there are. Raises InputError for an image that does not fit."""
    for name in ("images", "labels"):
        (out / data.split / name).mkdir(parents=True)
    count = 0
    for image_path, label_path in data.pairs:
        image, labels = read_rgb(image_path), read_index_map(label_path)  # [H, W, 3], [H, W]
        require_same_size(image, labels, image_path, label_path)
        if min(labels.shape) < 2:
            raise InputError(f"{image_path}: expected at least 2x2 pixels, got {labels.shape[0]}x{labels.shape[1]}")
        for place, rows, columns in tiles(*labels.shape):
            for folder, pixels in (("images", image[rows, columns, ::-1]), ("labels", labels[rows, columns])):
                file = out / data.split / folder / f"{image_path.stem}-{place}.png"
                if not cv2.imwrite(str(file), np.ascontiguousarray(pixels)):
                    raise OSError(f"{file} cannot be written")
            count += 1
    return count


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Cuts a data set of instance label images into tiles of half the shorter edge.",
        epilog="example: python benchmarks/image_tiles.py ../shared/data/dsb2018 artifacts/dsb2018-quarters",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="SPLIT/images beside SPLIT/labels, 16-bit PNGs")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder of the same layout")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    arguments = parser.parse_args(argv)
    found = splits(arguments.data)
    if not found:
        raise InputError(f"{arguments.data}: expected splits such as train/images with train/labels, found none")
    if arguments.out.exists():
        raise InputError(f"{arguments.out}: is there already; name a new folder")
    with whole_folder(arguments.out) as temporary:
        counts = {split: cut(InstanceLabels(arguments.data, split), temporary) for split in found}
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "tiles": counts}))
    else:
        say(", ".join(f"{split}: {count} tiles" for split, count in counts.items()))
        print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
