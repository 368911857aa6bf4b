"""Panoptic quality, counted over a data set: the rules of panopticapi, one table of overlaps an image.

    quality = PanopticQuality(labels)
    quality.add(annotation, result)        # once per image
    quality.metrics()                      # {"PQ": 0.52, "SQ": 0.81, "RQ": 0.63, "PQ_things": 0.58, …}

A predicted and a true segment of one class match where their IoU is above one half, which each can do once. PQ of a
class is the sum of matched IoUs over TP + FP/2 + FN/2; SQ their mean; RQ what remains, TP over the same. Averages are
over the classes that the data or the predictions have. Pixels that the truth leaves void count against nobody: they
are no part of a union, and a prediction that lies mostly on them, or on a crowd of its class, is no false positive.

Kirillov et al., Panoptic Segmentation, CVPR 2019, sec. 4; panopticapi, evaluation.py, pq_compute_single_core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation

MATCH_IOU = 0.5  # above it a match is unique
IGNORED_PART = 0.5  # of a prediction on void or crowd: above it the prediction is left out


class PanopticQuality:
    """Sums of each class: `iou` float64 [K]; `true_positives`, `false_positives`, `false_negatives` int64 [K]."""

    def __init__(self, labels: Sequence[Label]) -> None:
        """Raises InputError where a label does not say whether it is a thing."""
        if any(label.is_thing is None for label in labels):
            raise InputError("PQ: expected labels that say which classes are things, got labels that do not")
        self.labels = tuple(labels)
        self.iou = np.zeros(len(labels))  # [K]
        self.true_positives = np.zeros(len(labels), np.int64)  # [K]
        self.false_positives = np.zeros(len(labels), np.int64)  # [K]
        self.false_negatives = np.zeros(len(labels), np.int64)  # [K]

    def add(self, annotation: Annotation, result: Segmentation) -> None:
        """Counts one image. Raises InputError where the sizes differ, or true segments overlap."""
        truth = _one_plane(annotation)  # [H, W]: segment + 1, 0 = void
        predicted = result.label_map  # [H, W]: segment id from 1, 0 = none
        if truth.shape != predicted.shape:
            raise InputError(
                f"expected a prediction of the annotation's size {truth.shape}, got {predicted.shape}; "
                "do image and annotation have the same size?"
            )
        true_labels = annotation.label_ids  # [T]
        ids = np.array([segment.id for segment in result.segments], np.int64)  # [P]
        labels = np.array([segment.label_id for segment in result.segments], np.int64)  # [P]

        rows, columns = len(true_labels) + 1, int(ids.max(initial=0)) + 1
        pairs = truth.astype(np.int64) * columns + predicted  # [H, W]
        overlaps = np.bincount(pairs.reshape(-1), minlength=rows * columns).reshape(rows, columns)
        overlaps = overlaps[:, np.append(0, ids)]  # [1 + T, 1 + P] pixels; the first row is void, the first column none
        true_areas, areas = overlaps[1:].sum(1), overlaps[:, 1:].sum(0)  # [T], [P]
        inside, on_void = overlaps[1:, 1:], overlaps[0, 1:]  # [T, P], [P]

        unions = true_areas[:, None] + (areas - on_void) - inside  # [T, P]
        ious = inside / np.maximum(unions, 1)  # [T, P]
        comparable = (true_labels[:, None] == labels) & ~annotation.crowd[:, None]  # [T, P]
        matches = comparable & (ious > MATCH_IOU)  # [T, P], at most one in each row and column
        rows_matched, columns_matched = np.nonzero(matches)
        np.add.at(self.iou, true_labels[rows_matched], ious[rows_matched, columns_matched])
        np.add.at(self.true_positives, true_labels[rows_matched], 1)
        missed = ~matches.any(1) & ~annotation.crowd  # [T]
        np.add.at(self.false_negatives, true_labels[missed], 1)

        ignored = on_void.copy()  # [P] pixels
        # As in panopticapi, the last of several crowds of a class is the one that counts; COCO has one at most.
        crowd_of = {int(true_labels[row]): row for row in np.flatnonzero(annotation.crowd)}
        for column, label in enumerate(labels.tolist()):
            if label in crowd_of:
                ignored[column] += inside[crowd_of[label], column]
        wrong = ~matches.any(0) & (areas > 0) & (ignored <= IGNORED_PART * areas)  # [P]
        np.add.at(self.false_positives, labels[wrong], 1)

    def class_quality(self) -> np.ndarray:
        """PQ, SQ and RQ, float64 [K, 3]; NaN for a class that neither the data nor the predictions have."""
        weight = self.true_positives + 0.5 * self.false_positives + 0.5 * self.false_negatives  # [K]
        nan = np.full(len(self.labels), np.nan)
        recognition = np.divide(self.true_positives, weight, out=nan.copy(), where=weight > 0)  # [K]
        quality = np.divide(self.iou, weight, out=nan.copy(), where=weight > 0)  # [K]
        # a class without a match has no quality of its segments; panopticapi counts 0
        segmentation = np.where(weight > 0, self.iou / np.maximum(self.true_positives, 1), nan)  # [K]
        return np.stack([quality, segmentation, recognition], axis=1)

    def metrics(self) -> dict[str, float]:
        """Fractions; of things and of stuff where there are any. Raises InputError where nothing was counted."""
        quality = self.class_quality()  # [K, 3]
        present = ~np.isnan(quality[:, 0])  # [K]
        if not present.any():
            raise InputError("PQ: expected segments, got none, neither in the data nor predicted")
        things = np.array([bool(label.is_thing) for label in self.labels])  # [K]
        result = {}
        for suffix, group in (("", present), ("_things", present & things), ("_stuff", present & ~things)):
            if group.any():
                means = quality[group].mean(0).tolist()
                result |= {f"{name}{suffix}": mean for name, mean in zip(("PQ", "SQ", "RQ"), means, strict=True)}
        return result

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """name -> PQ, SQ, RQ (None where the class is absent) and the numbers of segments."""
        counts = (self.true_positives, self.false_positives, self.false_negatives)
        return {
            label.name: {
                **{
                    name: None if np.isnan(value) else float(value)
                    for name, value in zip(("PQ", "SQ", "RQ"), row, strict=True)
                },
                **{name: int(count[label.id]) for name, count in zip(("TP", "FP", "FN"), counts, strict=True)},
            }
            for label, row in zip(self.labels, self.class_quality(), strict=True)
        }


def _one_plane(annotation: Annotation) -> np.ndarray:
    if len(annotation.planes) == 1:
        return annotation.planes[0]
    if ((annotation.planes > 0).sum(0) > 1).any():
        raise InputError("PQ: expected segments that do not overlap, got some that do; --task instance measures these")
    return annotation.planes.sum(0)  # [H, W]
