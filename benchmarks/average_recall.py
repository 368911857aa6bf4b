"""Average recall of region proposals by COCO's protocol: how well masks without classes cover the objects.

    recall = AverageRecall(proposals=100)
    recall.add(annotation, things={0, 3}, regions={"layer 1": (masks, scores)})    # once per image
    recall.metrics()["layer 1"]["AR@100"]

For each IoU threshold 0.50, 0.55 … 0.95 the part of the objects that a proposal of their own matches; their mean. Per
image the `proposals` of the highest score count. COCOeval of pycocotools with useCats = 0; a crowd is a region to
ignore.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Annotation

AREAS = ("all", "small", "medium", "large")  # up to 32², 96² and above, in pixels of the object
Regions = tuple[np.ndarray, np.ndarray]  # masks bool [n, H, W], scores [n]


class AverageRecall:
    """For several sources of proposals at once, each by its name. Keeps run lengths, no masks."""

    def __init__(self, proposals: int = 100) -> None:
        """Raises InputError where pycocotools is not installed."""
        try:
            import pycocotools.mask as coco_masks
        except ImportError as error:
            raise InputError(
                f"average recall: expected the package pycocotools, which cannot be imported ({error}); "
                "pip install pycocotools"
            ) from error
        self._masks = coco_masks
        self.proposals = proposals
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._found: dict[str, list[dict[str, Any]]] = {}

    def add(self, annotation: Annotation, things: set[int], regions: Mapping[str, Regions]) -> None:
        """One image: the objects are the segments of the classes `things`. Empty masks propose nothing."""
        height, width = annotation.size
        image = len(self._images) + 1
        self._images.append({"id": image, "height": height, "width": width})
        for segment, label in enumerate(annotation.label_ids.tolist()):
            if label in things:
                encoded = self.encoded(annotation.mask(segment)[None])[0]
                self._objects.append(
                    {
                        "id": len(self._objects) + 1,  # from 1: COCO's matching takes 0 for no match
                        "image_id": image,
                        "category_id": 1,
                        "iscrowd": int(annotation.crowd[segment]),
                        "area": int(self._masks.area(encoded)),
                        "segmentation": encoded,
                    }
                )
        for name, (masks, scores) in regions.items():
            found = self._found.setdefault(name, [])
            kept = masks.any((1, 2))  # [n]
            found += [
                {"image_id": image, "category_id": 1, "score": float(score), "segmentation": mask}
                for mask, score in zip(self.encoded(masks[kept]), scores[kept], strict=True)
            ]

    def metrics(self) -> dict[str, dict[str, float]]:
        """name -> {"AR@100", "AR@100_small", …}, fractions; of areas, where there are objects of them.

        Raises InputError where there are no objects at all.
        """
        if all(each["iscrowd"] for each in self._objects):
            raise InputError("average recall: expected objects, got none: no image has a segment of a class of things")
        return {name: self._metrics(found) for name, found in self._found.items()}

    def encoded(self, masks: np.ndarray) -> list[dict[str, Any]]:
        """Compressed run lengths of bool [n, H, W]."""
        return self._masks.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))

    def _metrics(self, found: list[dict[str, Any]]) -> dict[str, float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it reports its times
            truth = COCO()
            truth.dataset = {"images": self._images, "annotations": self._objects, "categories": [{"id": 1}]}
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "segm")
            evaluation.params.useCats = 0
            evaluation.params.maxDets = [self.proposals]
            evaluation.evaluate()
            evaluation.accumulate()
        recall = evaluation.eval["recall"][:, 0, :, 0]  # [thresholds, areas]; -1: no objects
        key = f"AR@{self.proposals}"
        return {
            key if area == "all" else f"{key}_{area}": float(values.mean())
            for area, values in zip(AREAS, recall.T, strict=True)
            if values[0] > -1
        }
