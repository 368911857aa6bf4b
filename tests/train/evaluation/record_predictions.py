"""Writes what a network finds on images to the files that test_evaluator_parity.py reads: real mistakes, without torch.

    python tests/train/evaluation/record_predictions.py coco ENGINE ../shared/data/coco_panoptic_mini/val2017
    python tests/train/evaluation/record_predictions.py nuclei ENGINE ../shared/data/dsb2018/val/images

coco_predictions.json.gz was made by benchmarks/overfit.py's engine (40 other images learned by heart), so there are
right segments, wrong ones and nothing at all. nuclei_predictions.json.gz is of all 67 validation images, by the shipped
nuclei-lite (`build_engine.py models/nuclei-lite.safetensors --fp32 --dynamic --max 1x1024x1024`). Instances below a
score of 0.05 are left out.
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

FOLDER = Path(__file__).resolve().parent
LEAST_SCORE = 0.05  # of instances; below, an image has a hundred of them
# Of panoptic segments. COCO's: half of what its engine ships with, for more of them and worse ones. None: the engine's.
THRESHOLDS = {"coco": 0.4, "nuclei": None}


def entries(result: Segmentation) -> list[dict[str, Any]]:
    return [
        {"label_id": segment.label_id, "score": round(segment.score, 5), "rle": segment.rle["counts"]}
        for segment in result.segments
    ]


def main(data: str, engine: str, folder: str) -> None:
    segmenter = Segmenter.load(engine, object_threshold=THRESHOLDS[data])
    model = dataclasses.replace(segmenter.spec.model, tasks=("panoptic", "instance"))
    segmenter.spec = dataclasses.replace(segmenter.spec, model=model)
    images = {}
    for path in sorted(path for path in Path(folder).iterdir() if path.suffix in (".jpg", ".png")):
        image = cv2.imread(str(path))
        found = segmenter.for_tasks(image, model.tasks)
        instances = [entry for entry in entries(found["instance"]) if entry["score"] >= LEAST_SCORE]
        images[path.stem] = {"size": image.shape[:2], "panoptic": entries(found["panoptic"]), "instance": instances}
    content = {
        "labels": [label.name for label in model.labels],
        "checkpoint_sha256": segmenter.spec.checkpoint_sha256,
        "images": images,
    }
    text = json.dumps(content, separators=(",", ":"))
    (FOLDER / f"{data}_predictions.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
