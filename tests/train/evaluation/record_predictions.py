"""Writes what a network finds on images to the file that test_evaluator_parity.py reads: real mistakes, without torch.

    python tests/train/evaluation/record_predictions.py ENGINE ../shared/data/coco_panoptic_mini/val2017

coco_predictions.json.gz was made by benchmarks/overfit.py's engine (40 other images learned by heart), so there are
right segments, wrong ones and nothing at all. Instances below a score of 0.05 are left out.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import cv2

from mask2edge.runtime import Segmenter
from mask2edge.runtime.results import Segmentation

FILE = Path(__file__).resolve().parent / "coco_predictions.json.gz"
LEAST_SCORE = 0.05  # of instances; below, an image has a hundred of them
THRESHOLD = 0.4  # of panoptic segments: half of what the engine ships with, for more of them and worse ones


def entries(result: Segmentation) -> list[dict[str, Any]]:
    return [
        {"label_id": segment.label_id, "score": round(segment.score, 5), "rle": segment.rle["counts"]}
        for segment in result.segments
    ]


def main(engine: str, folder: str) -> None:
    segmenter = Segmenter.load(engine, object_threshold=THRESHOLD)
    model = dataclasses.replace(segmenter.spec.model, tasks=("panoptic", "instance"))
    segmenter.spec = dataclasses.replace(segmenter.spec, model=model)
    images = {}
    for path in sorted(Path(folder).glob("*.jpg")):
        image = cv2.imread(str(path))
        found = segmenter.for_tasks(image, model.tasks)
        instances = [entry for entry in entries(found["instance"]) if entry["score"] >= LEAST_SCORE]
        images[path.stem] = {"size": image.shape[:2], "panoptic": entries(found["panoptic"]), "instance": instances}
    content = {"labels": [label.name for label in model.labels], "images": images}
    FILE.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
