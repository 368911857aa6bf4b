"""Average recall against the protocol written out in NumPy, and against pycocotools."""

import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2edge.benchmarks.average_recall import AverageRecall
from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.annotation import Annotation

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def random_image(rng, objects=6, proposals=12, size=(40, 50)):
    """An annotation of boxes that do not overlap (one class of two is a thing), and proposals near some of them."""
    plane = np.zeros(size, np.int32)
    boxes = []
    for number in range(objects):
        y, x = 6 * number, int(rng.integers(0, 30))
        plane[y : y + 5, x : x + int(rng.integers(4, 18))] = number + 1
        boxes.append((y, x))
    masks = np.zeros((proposals, *size), bool)
    for mask in masks:
        y, x = boxes[int(rng.integers(objects))]
        mask[y : y + int(rng.integers(3, 7)), x : x + int(rng.integers(4, 18))] = True
    labels = rng.integers(0, 2, objects)
    labels[0] = 0
    return Annotation(plane[None], labels.astype(np.int64), np.zeros(objects, bool)), masks, rng.random(proposals)


def by_hand(images, proposals):
    """Recall of COCO's greedy matching: the surest proposal first takes the free object that it covers best."""
    recalls = []
    for threshold in THRESHOLDS:
        hits = count = 0
        for annotation, masks, scores in images:
            free = [annotation.mask(k) for k in np.flatnonzero(annotation.label_ids == 0)]
            count += len(free)
            for index in np.argsort(-scores, kind="stable")[:proposals]:
                ious = [(masks[index] & one).sum() / (masks[index] | one).sum() for one in free]
                if ious and max(ious) >= threshold:
                    free.pop(int(np.argmax(ious)))
                    hits += 1
        recalls.append(hits / count)
    return float(np.mean(recalls))


@pytest.mark.parametrize("proposals", [3, 100])
def test_equals_the_protocol(proposals):
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(8)]
    recall = AverageRecall(proposals)
    for annotation, masks, scores in images:
        recall.add(annotation, {0}, {"found": (masks, scores)})
    expected = by_hand(images, proposals)
    assert 0.05 < expected < 0.9
    assert recall.metrics()["found"][f"AR@{proposals}"] == pytest.approx(expected, abs=1e-12)


def test_equals_pycocotools_without_categories():
    """Classes of their own there, and useCats = 0; crowds, too."""
    rng = np.random.default_rng(2)
    recall = AverageRecall(5)
    images, objects, found = [], [], []
    for number in range(1, 7):
        annotation, masks, scores = random_image(rng)
        annotation = Annotation(annotation.planes, annotation.label_ids, rng.random(6) < 0.2)
        recall.add(annotation, {0, 1}, {"found": (masks, scores)})
        images.append({"id": number, "height": 40, "width": 50})
        for k, label in enumerate(annotation.label_ids.tolist()):
            encoded = pycocotools.mask.encode(np.asfortranarray(annotation.mask(k).astype(np.uint8)))
            objects.append(
                {
                    "id": len(objects) + 1, "image_id": number, "category_id": 1 + label, "segmentation": encoded,
                    "iscrowd": int(annotation.crowd[k]), "area": int(pycocotools.mask.area(encoded)),
                }
            )  # fmt: skip
        for mask, score in zip(masks, scores, strict=True):
            encoded = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            category = int(rng.integers(1, 3))
            found.append({"image_id": number, "category_id": category, "score": score, "segmentation": encoded})
    truth = COCO()
    truth.dataset = {"images": images, "annotations": objects, "categories": [{"id": 1}, {"id": 2}]}
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(found), "segm")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [5]
    evaluation.evaluate()
    evaluation.accumulate()
    expected = evaluation.eval["recall"][:, 0, 0, 0].mean()
    assert 0.05 < expected < 0.9
    assert recall.metrics()["found"]["AR@5"] == pytest.approx(expected, abs=1e-12)


def test_the_objects_themselves_have_recall_1_and_nothing_has_0():
    annotation, _, _ = random_image(np.random.default_rng(1))
    things = np.flatnonzero(annotation.label_ids == 0)
    truth = np.stack([annotation.mask(k) for k in things])
    recall = AverageRecall()
    sources = {
        "truth": (truth, np.ones(len(truth))),
        "empty": (np.zeros_like(truth), np.ones(len(truth))),
        "none": (truth[:0], np.ones(0)),
        "stuff": (~truth.any(0)[None], np.ones(1)),
    }
    recall.add(annotation, {0}, sources)
    found = recall.metrics()
    assert {name: figures["AR@100"] for name, figures in found.items()} == {
        "truth": 1.0, "empty": 0.0, "none": 0.0, "stuff": 0.0,
    }  # fmt: skip
    assert found["truth"]["AR@100_small"] == 1.0
    assert "AR@100_large" not in found["truth"]  # there are no large objects


def test_a_crowd_is_ignored():
    plane = np.zeros((20, 20), np.int32)
    plane[:10], plane[10:, :10] = 1, 2
    annotation = Annotation(plane[None], np.zeros(2, np.int64), np.array([True, False]))
    recall = AverageRecall()
    recall.add(annotation, {0}, {"found": (annotation.mask(1)[None], np.ones(1))})
    assert recall.metrics()["found"]["AR@100"] == 1.0


def test_data_without_objects_are_refused():
    annotation = Annotation(np.ones((1, 4, 4), np.int32), np.array([1]), np.zeros(1, bool))
    recall = AverageRecall()
    recall.add(annotation, {0}, {"found": (np.ones((1, 4, 4), bool), np.ones(1))})
    with pytest.raises(InputError, match="expected objects, got none"):
        recall.metrics()
