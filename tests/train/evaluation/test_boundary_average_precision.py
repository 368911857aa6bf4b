"""Boundary AP against pycocotools with boundaries from a distance transform, to 1e-6; and what is known by hand."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from evaluation_testing import (
    NUCLEI,
    NUCLEUS,
    annotation_of,
    blobs,
    flattened,
    instance_result,
    labels_of,
    nuclei_annotations,
    perturbed,
)

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.evaluation.average_precision import AveragePrecision
from mask2edge.train.evaluation.boundary_average_precision import BoundaryAveragePrecision

pytest.importorskip("faster_coco_eval", reason="it does the matching: pip install 'mask2edge[accuracy]'")

Pairs = list[tuple[Annotation, Segmentation]]
SIZE = (96, 128)  # a diagonal of 160: a boundary of 3 pixels


def boundary(mask: np.ndarray) -> np.ndarray:
    """The mask's pixels within 2 % of the diagonal (Chebyshev distance) of a pixel that is not its own, or the edge."""
    width = max(1, round(0.02 * np.hypot(*mask.shape)))
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
    return mask & (inside <= width)


def expected(labels: Sequence[Label], pairs: Pairs, detections: int) -> dict[str, float]:
    """By pycocotools' matching, with overlaps of our own: plain sums over masks."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    masks: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # id -> mask and boundary
    truth, found = [], []
    for number, (annotation, result) in enumerate(pairs, start=1):
        for segment, label in enumerate(annotation.label_ids.tolist()):
            mask = annotation.mask(segment)
            row = {"id": len(truth) + 1, "image_id": number, "category_id": label, "area": int(mask.sum())}
            truth.append({**row, "bbox": [0, 0, 9, 9], "iscrowd": int(annotation.crowd[segment])})
            masks[len(truth)] = mask, boundary(mask)
        for segment in result.segments:
            row = {"image_id": number, "category_id": segment.label_id, "score": segment.score}
            found.append({**row, "bbox": [0, 0, 9, 9]})
            masks[-len(found)] = segment.mask, boundary(segment.mask)

    class Evaluation(COCOeval):
        def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list[float]:
            gt, dt = self._gts[imgId, catId], self._dts[imgId, catId]
            if not gt or not dt:
                return []
            order = np.argsort([-d["score"] for d in dt], kind="mergesort")[: self.params.maxDets[-1]]
            overlaps = np.zeros((len(order), len(gt)))
            for i, j in np.ndindex(overlaps.shape):
                (one, edge), (other, other_edge) = masks[-dt[order[i]]["id"]], masks[gt[j]["id"]]
                if gt[j]["iscrowd"]:
                    overlaps[i, j] = (one & other).sum() / one.sum()
                else:
                    whole = (one & other).sum() / (one | other).sum()
                    overlaps[i, j] = min(whole, (edge & other_edge).sum() / (edge | other_edge).sum())
            return overlaps

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "info": {},
            "images": [{"id": n + 1, "height": a.size[0], "width": a.size[1]} for n, (a, _) in enumerate(pairs)],
            "annotations": truth,
            "categories": [{"id": label.id, "name": label.name} for label in labels],
        }
        data.createIndex()
        evaluation = Evaluation(data, data.loadRes(found), "bbox")  # overlaps are ours: the boxes are not looked at
        evaluation.params.maxDets = [detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]
    places = {"boundary_AP": slice(None), "boundary_AP50": 0, "boundary_AP75": 5}
    return {name: precision[place][precision[place] > -1].mean() for name, place in places.items()}


def ours(labels: Sequence[Label], pairs: Pairs, detections: int = 100) -> BoundaryAveragePrecision:
    precision = BoundaryAveragePrecision(labels, detections)
    for annotation, result in pairs:
        precision.add(annotation, result)
    return precision


def predicted(annotation: Annotation, labels: Sequence[Label], generator: np.random.Generator) -> Segmentation:
    """Each segment perturbed, of another class now and then; some missing, scores with ties."""
    masks, classes, scores = [], [], []
    for segment, label in enumerate(annotation.label_ids.tolist()):
        mask = perturbed(annotation.mask(segment), generator)
        if mask.any() and generator.random() < 0.9:
            masks.append(mask)
            classes.append(label if generator.random() < 0.8 else int(generator.integers(len(labels))))
            scores.append(float(generator.integers(1, 10)) / 10)
    return instance_result(masks, classes, scores, labels, annotation.size)


@pytest.mark.parametrize("detections", [2, 100])
@pytest.mark.parametrize("seed", range(3))
def test_made_up_images(seed: int, detections: int) -> None:
    generator, pairs, labels = np.random.default_rng(seed), [], labels_of("abc")
    for image in range(10):
        painted, _ = flattened(blobs(generator, SIZE, 0 if image == 3 else 6), SIZE)
        classes = generator.integers(0, 3, painted.max()).tolist()
        crowd = [number for number in range(1, len(classes) + 1) if generator.random() < 0.2]
        annotation = annotation_of(painted, classes, crowd)
        pairs.append((annotation, predicted(annotation, labels, generator)))
    figures = ours(labels, pairs, detections).metrics()
    assert figures == pytest.approx(expected(labels, pairs, detections), abs=1e-6)
    assert 0 < figures["boundary_AP"] < figures["boundary_AP50"] < 1


@pytest.mark.skipif(not NUCLEI.is_dir(), reason="needs the nuclei in ../shared/data/dsb2018")
def test_nuclei() -> None:
    generator = np.random.default_rng(0)
    pairs = [(one, predicted(one, [NUCLEUS], generator)) for one in sorted(nuclei_annotations(30), key=len)[:8]]
    assert ours([NUCLEUS], pairs, 300).metrics() == pytest.approx(expected([NUCLEUS], pairs, 300), abs=1e-6)


def square(size: int, left: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10 : 10 + size, left : left + size] = True
    return mask


def test_a_shift_costs_a_large_object_more_than_its_ap_shows_and_a_small_one_the_same() -> None:
    labels = labels_of("a")

    def figures(size: int) -> tuple[float, float]:
        pair = annotation_of(square(size), [0]), instance_result([square(size, 11)], [0], [0.9], labels, SIZE)
        plain = AveragePrecision(labels)
        plain.add(*pair)
        return plain.metrics()["AP"], ours(labels, [pair]).metrics()["boundary_AP"]

    assert figures(60) == pytest.approx((1.0, 0.5))  # IoU 59/61; of the rings, 3 pixels wide, 570/798: up to 0.70
    plain, edge = figures(6)  # all of it is boundary
    assert plain == pytest.approx(edge)


def test_classes_without_instances_and_images_without_detections() -> None:
    labels = labels_of("ab")
    nothing = instance_result([], [], [], labels, SIZE)
    undetected = ours(labels, [(annotation_of(square(9), [0]), nothing)])
    assert undetected.metrics() == {"boundary_AP": 0.0, "boundary_AP50": 0.0, "boundary_AP75": 0.0}
    assert undetected.per_class()["b"] == {"boundary_AP": None, "boundary_AP50": None, "boundary_AP75": None}
    found = instance_result([square(9)], [0], [0.5], labels, SIZE)
    assert ours(labels, [(annotation_of(square(9), [0]), found)]).metrics()["boundary_AP"] == pytest.approx(1.0)


def test_what_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of("a")
    found = instance_result([square(9)], [0], [0.5], labels, SIZE)
    with pytest.raises(InputError, match="boundary AP: expected instances, got none"):
        ours(labels, [(annotation_of(np.zeros(SIZE), []), found)]).metrics()
    with pytest.raises(InputError, match=r"size \(2, 2\), got \(96, 128\)"):
        ours(labels, [(annotation_of(np.zeros((2, 2)), []), found)])
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match=r"pip install 'mask2edge\[accuracy\]'"):
        BoundaryAveragePrecision(labels)
