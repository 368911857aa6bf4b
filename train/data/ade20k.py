"""ADE20K's scene parsing as it is downloaded: images/{training,validation} with annotations/{training,validation}.

    data = open_ade20k(Path("ADEChallengeData2016"), "validation")

A pixel's value is its class, 1 to 150; 0 counts for nothing. A classes.txt at the root makes the folder one of the
format `semantic` instead.
"""

from __future__ import annotations

from pathlib import Path

from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.semantic_folder import CLASSES_FILE, SemanticMaps, paired
from mask2edge.train.labels import load_labels

SPLITS = ("training", "validation")


def open_ade20k(root: Path, split: str, strict: bool = True) -> Dataset:
    """Raises InputError where label maps are missing: some and `strict`, or all."""
    pairs, faults = paired(root / "images" / split, root / "annotations" / split, strict)
    return SemanticMaps(root, split, load_labels("ade20k"), pairs, faults, first=1)


def splits(root: Path) -> tuple[str, ...]:
    """The splits that a folder holds, by name; empty where it is no such folder."""
    if (root / CLASSES_FILE).exists():
        return ()
    return tuple(
        split for split in SPLITS if (root / "images" / split).is_dir() and (root / "annotations" / split).is_dir()
    )
