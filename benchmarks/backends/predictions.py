"""What follows from a backend's stages: mask features, every layer's predictions, and the label map of the image.

    Comparator.postprocess(results, Predictions(model).add)
    Comparator.postprocess(results, LabelMap(segmenter, prepared, "semantic").add)

An exported graph calculates classes and full-size masks after its last layer alone, and its last 1×1 convolution,
`mask_features`, is a part of the mask head (export/inference_graph.py). What the layers before would predict, and the
mask features, are therefore calculated here, by the checkpoint's own heads in float32, from each backend's queries and
map. So they differ by what went in, and a head that is wrong in a backend shows in the next layer's attention mask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mask2edge.benchmarks.backends.stages import FEATURES, FINE, LABEL_MAP, PROPOSALS
from mask2edge.runtime.preprocess import Prepared
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session import OUTPUTS
from mask2edge.train.model.guided_queries import best_pixels, centres_of
from mask2edge.train.model.mask2former import Mask2Former

QUERIES = re.compile(r"decoder\.(\d+)\.queries")
NO_CLASS = -1


class Predictions:
    """Adds to a backend's stages, in place, the mask features and what each layer but the last predicts."""

    def __init__(self, model: Mask2Former) -> None:
        self._model = model

    def add(self, stages: Any) -> Any:
        """`stages`: name -> array, such as Polygraphy's IterationResult; one without inner stages stays as it is."""
        names = set(stages.keys())
        if FINE not in names:
            return stages
        model = self._model
        layers = sorted(int(match[1]) for name in names if (match := QUERIES.fullmatch(name)))
        with torch.no_grad():
            features = model.pixel_decoder.mask_features(_tensor(stages[FINE]))  # [N, C, H/4, W/4]
            stages[FEATURES] = features.numpy()
            centres = self._centres(stages) if PROPOSALS in names else None
            for layer in layers[:-1]:
                predicted = model.mask_decoder.predict(_tensor(stages[f"decoder.{layer}.queries"]), features, centres)
                stages[f"decoder.{layer}.class_prediction"] = predicted["class_logits"].numpy()  # [N, Q, K+1]
                stages[f"decoder.{layer}.mask_prediction"] = predicted["mask_logits"].numpy()  # [N, Q, H/4, W/4]
        return stages

    def _centres(self, stages: Any) -> torch.Tensor:
        """Where this backend's guided queries began, [N, Q, 2]."""
        guided = self._model.mask_decoder.guided_queries
        assert guided is not None
        logits = _tensor(stages[PROPOSALS])  # [N, K, H/8, W/8]
        chosen, width = best_pixels(logits, guided.num_queries), logits.shape[3]  # [N, Q]
        return centres_of(chosen // width, chosen % width)


class LabelMap:
    """Adds, in place, the class at each pixel of the original image, by the runtime's post-processing."""

    def __init__(self, segmenter: Segmenter, prepared: Sequence[Prepared], task: str) -> None:
        self._segmenter, self._prepared, self._task = segmenter, prepared, task

    def add(self, stages: Any) -> Any:
        outputs = {name: np.asarray(stages[name], np.float32) for name in OUTPUTS}
        (result,) = self._segmenter.finish(outputs, self._prepared, self._task)
        stages[LABEL_MAP] = class_map(result)
        return stages


def class_map(result: Segmentation) -> np.ndarray:
    """int32 [H, W]: the class of each pixel, -1 for none. Segments are numbered in turn, so that one more or less would
    change the numbers of all that follow; classes do not change so."""
    if result.task == "semantic":
        return result.label_map
    classes = np.full(int(result.label_map.max(initial=0)) + 1, NO_CLASS, np.int32)
    for segment in result.segments:
        if segment.id < classes.size:  # instances that others cover have no pixel
            classes[segment.id] = segment.label_id
    return classes[result.label_map]


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
