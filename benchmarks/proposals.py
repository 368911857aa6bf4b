"""The first queries as region proposals: what they predict before any decoder layer, and what each layer adds.

    python benchmarks/proposals.py best.safetensors --data ../shared/data/dsb2018 --out artifacts/nuclei

Mask2Former, sec. 4.4 and fig. 3: masks without classes, their average recall with 100 proposals per image by COCO's
protocol (average_recall.py), and pictures of the proposals that cover the objects best. A network of more queries
proposes the 100 that are least "no object". Runs in PyTorch: an engine predicts after its last layer alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2edge.benchmarks.accuracy import open_data
from mask2edge.benchmarks.average_recall import AverageRecall, Regions
from mask2edge.benchmarks.progress import progress
from mask2edge.benchmarks.proposal_pictures import picture
from mask2edge.runtime.command_line import InputError, command, positive_number, say, whole_file
from mask2edge.runtime.preprocess import Prepared, preprocess
from mask2edge.runtime.spec import ModelSpec, Profile
from mask2edge.train.checkpoint import load_model
from mask2edge.train.data.annotation import Dataset
from mask2edge.train.data.formats import FORMATS
from mask2edge.train.model.mask2former import Mask2Former

LEARNED, GUIDED = "learned queries", "guided queries"
PROPOSALS = 100
PICTURES = 4
CHUNK = 32  # masks of the image's size in memory at a time, as float32


def evaluate(
    model: Mask2Former, spec: ModelSpec, data: Dataset, limit: int | None = None, pictures: Path | None = None
) -> dict[str, dict[str, float]]:
    """Source of the proposals ("learned queries" or "guided queries", "layer 1", …) -> its figures, over the first
    `limit` images.

    Pictures of the first images that show objects go to the folder `pictures`. Raises InputError where the data set
    does not say which classes are things.
    """
    things = {label.id for label in data.labels if label.is_thing}
    if not things:
        raise InputError(
            f"{data.root}: expected classes that are things, got none; "
            "proposals are measured on instance or panoptic data"
        )
    recall = AverageRecall(PROPOSALS)
    drawn = 0
    for index in progress(range(len(data) if limit is None else min(limit, len(data))), "images"):
        image, annotation = data[index]
        regions = dict(propose(model, spec, image))
        recall.add(annotation, things, regions)
        objects = [k for k, label in enumerate(annotation.label_ids.tolist()) if label in things]
        if pictures is not None and objects and drawn < PICTURES:
            sources = list(regions)
            shown = {name: regions[name][0] for name in (sources[0], sources[-1])}
            masks = np.stack([annotation.mask(k) for k in objects])  # [n, H, W]
            with whole_file(pictures / f"{Path(data.name(index)).stem}.png") as temporary:
                cv2.imwrite(str(temporary), picture(image[:, :, ::-1], masks, shown))
            drawn += 1
    return recall.metrics()


def propose(model: Mask2Former, spec: ModelSpec, image: np.ndarray) -> Iterator[tuple[str, Regions]]:
    """The PROPOSALS best regions of each prediction, in the order of the layers; image RGB uint8 [H, W, 3].

    The score is the probability that the query is an object. Masks are as in post-processing: bilinear to the padded
    input, cropped, bilinear to the image, and positive there.
    """
    fixed = Profile.fixed(*spec.size) if spec.preprocessing.resize == "fixed" else None
    prepared = preprocess(np.ascontiguousarray(image[:, :, ::-1]), spec.preprocessing, fixed)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(prepared.pixels))
        predictions = [*outputs["auxiliary"], outputs]
        source = LEARNED if model.mask_decoder.guided_queries is None else GUIDED
        first = 1 if len(predictions) == len(model.mask_decoder.layers) else 0  # no prediction before the layers
        for number, prediction in enumerate(predictions, start=first):
            scores = 1 - prediction["class_logits"][0].softmax(-1)[:, -1]  # [Q]
            best = scores.argsort(descending=True, stable=True)[:PROPOSALS]
            masks = at_image_size(prediction["mask_logits"][0, best], prepared)
            yield source if number == 0 else f"layer {number}", (masks, scores[best].numpy())


def at_image_size(mask_logits: Tensor, prepared: Prepared) -> np.ndarray:
    """[n, H/4, W/4] -> bool [n, H0, W0]."""
    height, width = prepared.content
    masks = []
    for part in mask_logits.split(CHUNK):
        padded = F.interpolate(part[None], prepared.padded, mode="bilinear", align_corners=False)  # [1, n, H, W]
        whole = F.interpolate(
            padded[:, :, :height, :width], prepared.image, mode="bilinear", align_corners=False
        )  # [1, n, H0, W0]
        masks.append((whole[0] > 0).numpy())
    return np.concatenate(masks)


def report(metrics: dict[str, dict[str, float]]) -> Iterator[str]:
    """One line for each source, a column for each figure."""
    columns = list(dict.fromkeys(name for figures in metrics.values() for name in figures))
    yield f"{'':<16}" + "".join(f"{name:>15}" for name in columns)
    for source, figures in metrics.items():
        yield f"{source:<16}" + "".join(f"{figures.get(name, float('nan')):>15.4f}" for name in columns)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Average recall of the learned queries' masks, and of every decoder layer's.",
        epilog="example: python benchmarks/proposals.py best.safetensors --data ../shared/data/dsb2018",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="instance or panoptic data")
    parser.add_argument("--split", metavar="NAME", help="default: val, else the only one there is")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: recognised")
    parser.add_argument("--limit", type=positive_number, metavar="N", help="the first N images alone")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"pictures of {PICTURES} images' proposals go there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out: expected a folder, got the file {arguments.out}")
    model, checkpoint = load_model(arguments.checkpoint)
    data = open_data(arguments.data, arguments.split, arguments.format, checkpoint.spec.labels)
    if checkpoint.model_config.query_features not in ("supervised", "guided"):
        say(f"{arguments.checkpoint}: its queries learn no prediction before the first layer; layer 1 comes first")
    metrics = evaluate(model, checkpoint.spec, data, arguments.limit, arguments.out)
    result: dict[str, Any] = {
        "checkpoint": str(arguments.checkpoint),
        "data": str(arguments.data),
        "split": data.split,
        "images": min(len(data), arguments.limit or len(data)),
        "proposals": PROPOSALS,
        "metrics": metrics,
    }
    print(json.dumps(result) if arguments.json else "\n".join(report(metrics)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
