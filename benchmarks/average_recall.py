"""Average recall of region proposals by COCO's protocol: how well masks without classes cover the objects.

    recall = AverageRecall(proposals=100)
    recall.add(annotation, things={0, 3}, regions={"layer 1": (masks, scores)})    # once per image
    recall.metrics()["layer 1"]["AR@100"]

For each IoU threshold 0.50, 0.55 … 0.95 the part of the objects that a proposal of their own matches; their mean. Per
image the `proposals` of the highest score count. Objects and proposals are of one class; a crowd is a region to ignore.
hotcoco does the matching (decision 9), and what is kept of an image are its matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.rle import encode
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.average_precision import AREAS
from mask2edge.train.evaluation.coco_rows import run_lengths

OBJECT = 1  # the one category
Regions = tuple[np.ndarray, np.ndarray]  # masks bool [n, H, W], scores [n]


class AverageRecall:
    """For several sources of proposals at once, each by its name: the same ones for every image."""

    def __init__(self, proposals: int = 100) -> None:
        self.proposals = proposals
        self._matches: dict[str, Any] = {}
        self._images = self._segments = 0
        self._objects = False  # whether there were any

    def add(self, annotation: Annotation, things: set[int], regions: Mapping[str, Regions]) -> None:
        """One image: the objects are the segments of the classes `things`. Empty masks propose nothing."""
        self._images += 1
        height, width = annotation.size
        image = {"id": self._images, "height": height, "width": width}
        objects = self._truth(annotation, things)
        for name, (masks, scores) in regions.items():
            found = [
                {
                    "image_id": self._images,
                    "category_id": OBJECT,
                    "score": float(score),
                    "segmentation": {"size": [height, width], "counts": encode(mask).tolist()},
                }
                for mask, score in zip(masks, scores, strict=True)
                if mask.any()
            ]
            if name not in self._matches:
                self._matches[name] = _matcher(self.proposals)
            self._matches[name].update([image], objects, found)

    def metrics(self) -> dict[str, dict[str, float]]:
        """name -> {"AR@100", "AR@100_small", …}, fractions; of areas, where there are objects of them.

        Raises InputError where there are no objects at all. Ends the counting.
        """
        if not self._objects:
            raise InputError("average recall: expected objects, got none: no image has a segment of a class of things")
        return {name: self._figures(matches) for name, matches in self._matches.items()}

    def _truth(self, annotation: Annotation, things: set[int]) -> list[dict[str, Any]]:
        counts, truth = run_lengths(annotation), []
        for segment, label in enumerate(annotation.label_ids.tolist()):
            if label in things:
                crowd = bool(annotation.crowd[segment])
                self._segments += 1
                self._objects |= not crowd
                truth.append(
                    {
                        "id": self._segments,  # from 1: COCO's matching takes 0 for no match
                        "image_id": self._images,
                        "category_id": OBJECT,
                        "iscrowd": int(crowd),
                        "area": int(counts[segment][1::2].sum()),
                        "segmentation": {"size": list(annotation.size), "counts": counts[segment].tolist()},
                    }
                )
        return truth

    def _figures(self, matches: Any) -> dict[str, float]:
        evaluation = matches.finalize()
        evaluation.accumulate()
        recall = evaluation.eval["recall"][:, 0, :, 0]  # [thresholds, areas]; -1: no objects
        return {
            f"AR@{self.proposals}{name}": float(recall[:, place].mean())
            for name, place in AREAS.items()
            if recall[0, place] > -1
        }


def _matcher(proposals: int) -> Any:
    """Raises InputError where hotcoco is not installed."""
    try:
        from hotcoco import Params, StreamingEval
    except ImportError as error:
        raise InputError(
            f"average recall: expected the package hotcoco, which cannot be imported ({error}); "
            "pip install 'mask2edge[accuracy]'"
        ) from error
    rules = Params("segm")
    rules.max_dets = [proposals]
    return StreamingEval([{"id": OBJECT, "name": "object"}], "segm", params=rules)
