"""Semantic accuracy of a torch model on labelled images: one confusion matrix over the data set, at original size.

scores = validate(model, SemanticFolder(root, "val"), spec)
scores.mean_iou, scores.pixel_accuracy
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2edge.runtime.spec import SIZE_DIVISOR, ModelSpec, Preprocessing
from mask2edge.train.data.semantic_folder import SemanticFolder
from mask2edge.train.data.transforms import normalise


@dataclass(frozen=True)
class SemanticScores:
    """Fractions. confusion: int64 [K, K], rows are true classes, columns predicted ones."""

    confusion: np.ndarray
    class_names: tuple[str, ...] = ()

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, [K]; nan for one that is neither there nor predicted."""
        hits = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits  # [K]
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        iou = self.iou
        return 0.0 if np.isnan(iou).all() else float(np.nanmean(iou))

    @property
    def name(self) -> str:
        return "mIoU"

    @property
    def score(self) -> float:
        return self.mean_iou

    @property
    def metrics(self) -> dict[str, Any]:
        """mIoU, pixel accuracy, and the IoU of each class, None for one that is neither there nor predicted."""
        iou = [None if math.isnan(value) else float(value) for value in self.iou]
        names = self.class_names or [str(index) for index in range(len(iou))]
        return {
            "mIoU": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "iou": dict(zip(names, iou, strict=True)),
        }

    @property
    def pixel_accuracy(self) -> float:
        return float(np.diag(self.confusion).sum() / max(1, self.confusion.sum()))


def validate(
    model: nn.Module, data: SemanticFolder, spec: ModelSpec, stop: Callable[[], bool] = lambda: False
) -> SemanticScores | None:
    """Scores over all images, one at a time, ignored pixels left out; None where `stop()` became true in between."""
    classes = spec.num_classes
    confusion = np.zeros((classes, classes), np.int64)  # [K, K]
    for index in range(len(data)):
        if stop():
            return None
        image, truth = data[index]
        predicted = segment_semantic(model, image, spec)  # [H, W]
        counted = truth != data.ignore
        pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
        confusion += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return SemanticScores(confusion, tuple(label.name for label in spec.labels))


@torch.inference_mode()
def segment_semantic(model: nn.Module, image: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Class indices int64 [H,W] of an RGB uint8 image [H,W,3], by the spec's preprocessing and semantic order.

    Reference: maskformer_model.py, semantic_inference and the order of resizing around it.
    """
    device = next(model.parameters()).device
    pixels, content = prepare(image, spec.preprocessing)
    outputs = model(pixels[None].to(device))
    classes = outputs["class_logits"][0].softmax(-1)[:, :-1]  # [Q, K]
    masks = _resize(outputs["mask_logits"][0], pixels.shape[1:])  # [Q, H', W'], padded
    if spec.postprocessing.semantic_order == "padded":
        scores = torch.einsum("qk,qhw->khw", classes, masks.sigmoid())  # [K, H', W']
        scores = _resize(scores[:, : content[0], : content[1]], image.shape[:2])  # [K, H, W]
    else:
        masks = _resize(masks[:, : content[0], : content[1]], image.shape[:2])  # [Q, H, W]
        scores = torch.einsum("qk,qhw->khw", classes, masks.sigmoid())  # [K, H, W]
    return scores.argmax(0).cpu().numpy()


def prepare(image: np.ndarray, preprocessing: Preprocessing) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 [H,W,3] -> pixels float32 [3,H',W'], padded bottom and right with 0, and the content's (h, w) in it."""
    height, width = image.shape[:2]
    factor = preprocessing.shortest_edge / min(height, width)
    factor = min(factor, preprocessing.longest_edge / max(height, width))
    content = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    if content != (height, width):
        shrinks = content[0] < height or content[1] < width  # by area, as runtime/preprocess.py does it
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, content[::-1], interpolation=method)  # [h,w,3]
    normal = normalise(image, preprocessing.mean, preprocessing.std)  # [3,h,w]
    padding = [(0, 0), *((0, -length % SIZE_DIVISOR) for length in content)]
    return torch.from_numpy(np.pad(normal, padding)), content  # [3,H',W']


def _resize(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """[C,h,w] -> [C,*size]"""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]
