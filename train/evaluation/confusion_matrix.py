"""mIoU and pixel accuracy from one confusion matrix over a whole data set.

    matrix = ConfusionMatrix(num_classes=11)
    matrix.add(truth, prediction)          # once per image
    matrix.metrics()                       # {"mIoU": 0.72, "pixel_accuracy": 0.94}

The rule: intersection and union of a class are summed over all pixels of all images, and divided once at the end.
Pixels whose truth is ignore count nowhere, whatever is predicted there. A class that is in neither the truth nor the
predictions has no IoU and is left out of the mean; a class that is predicted and never true has IoU 0 and stays in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mask2edge.runtime.command_line import InputError


class ConfusionMatrix:
    """`counts[t, p]`: pixels [K, K] of true class t that were predicted as p."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), np.int64)  # [K, K]

    def add(self, truth: np.ndarray, prediction: np.ndarray, ignore: int = 255) -> None:
        """Counts one image; both are integer label maps [H, W]. Raises InputError where they cannot be compared."""
        if truth.shape != prediction.shape:
            raise InputError(
                f"expected a prediction of the label map's size {truth.shape}, got {prediction.shape}; "
                "do image and annotation have the same size?"
            )
        labelled = truth != ignore  # [H, W]
        true = truth[labelled].astype(np.int64)  # [pixels]
        predicted = prediction[labelled].astype(np.int64)  # [pixels]
        for name, values in (("annotation", true), ("prediction", predicted)):
            if values.size and not (values.min() >= 0 and values.max() < self.num_classes):
                raise InputError(
                    f"{name}: expected classes 0 to {self.num_classes - 1} or ignore ({ignore}), "
                    f"got values from {values.min()} to {values.max()}; "
                    "is this data labelled with the model's classes?"
                )
        pairs = np.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)  # [K*K]
        self.counts += pairs.reshape(self.num_classes, self.num_classes)

    def class_iou(self) -> np.ndarray:
        """float64 [K]; NaN for a class that is in neither the truth nor the predictions."""
        intersection = np.diag(self.counts).astype(np.float64)  # [K]
        union = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)  # [K]
        return np.divide(intersection, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def metrics(self) -> dict[str, float]:
        """Fractions. Raises InputError where no pixel was labelled."""
        total = int(self.counts.sum())
        if total == 0:
            raise InputError("expected labelled pixels, got none: every pixel of every image is marked ignore")
        return {
            "mIoU": float(np.nanmean(self.class_iou())),
            "pixel_accuracy": float(np.trace(self.counts) / total),
        }

    def per_class(self, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """name -> IoU (None where the class is absent), and the share of labelled pixels that the class has."""
        shares = self.counts.sum(1) / max(1, self.counts.sum())  # [K]
        return {
            name: {"IoU": None if math.isnan(iou) else float(iou), "pixel_share": float(share)}
            for name, iou, share in zip(names, self.class_iou(), shares, strict=True)
        }
