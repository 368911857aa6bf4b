"""Our figures against the field's own programs, to 1e-6: pycocotools, panopticapi(-lite), hotcoco, and plain NumPy.

Truth is the COCO and DSB2018 validation labels, and images made by chance with crowds, void and nothing on them.
Predictions are the truth, moved, grown, shrunk, dropped, invented and called by other names; and what networks found
on the images of both (record_predictions.py): on COCO's, images with nothing among it; on all of DSB2018's by the
shipped nuclei-lite, with the background as stuff.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from evaluation_testing import (
    BACKGROUND,
    COCO,
    NUCLEI,
    NUCLEI_COUNT,
    NUCLEUS,
    ROOT,
    Samples,
    annotation_of,
    blobs,
    coco_annotations,
    coco_labels,
    flattened,
    instance_result,
    labels_of,
    nuclei_annotations,
    panoptic_result,
    perturbed,
    with_background,
)

from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label
from mask2edge.train.data.annotation import Annotation, semantic_map
from mask2edge.train.evaluation.average_precision import AveragePrecision
from mask2edge.train.evaluation.class_match import match_classes
from mask2edge.train.evaluation.confusion_matrix import ConfusionMatrix
from mask2edge.train.evaluation.panoptic_quality import PanopticQuality

pytest.importorskip("hotcoco", reason="AP is computed by hotcoco: pip install 'mask2edge[accuracy]'")

ABC = labels_of("abc", "de")
SIZE = (48, 64)

needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason="needs the COCO images in ../shared/data/coco_panoptic_mini")
needs_nuclei = pytest.mark.skipif(not NUCLEI.is_dir(), reason="needs the nuclei in ../shared/data/dsb2018")

Pairs = list[tuple[Annotation, Segmentation]]


def made_up_panoptic(seed: int, images: int = 12) -> tuple[tuple[Label, ...], Pairs]:
    """Truth with void, crowds of each class at most, and images without segments; predictions likewise."""
    generator, pairs = np.random.default_rng(seed), []
    for image in range(images):
        truth, _ = flattened(blobs(generator, SIZE, 0 if image == 3 else 7), SIZE)
        classes = generator.integers(0, 5, truth.max())
        crowds = {int(k): number for number, k in enumerate(classes, start=1) if k < 3 and generator.random() < 0.25}
        annotation = annotation_of(truth, classes.tolist(), list(crowds.values()))
        pairs.append((annotation, perturbed_panoptic(annotation, ABC, generator, nothing=image == 5)))
    return ABC, pairs


def perturbed_panoptic(
    annotation: Annotation, labels: Sequence[Label], generator: np.random.Generator, nothing: bool = False
) -> Segmentation:
    masks, classes = [], []
    for segment, label in enumerate(annotation.label_ids.tolist()):
        if generator.random() < 0.85:
            masks.append(perturbed(annotation.mask(segment), generator))
            classes.append(label if generator.random() < 0.85 else int(generator.integers(0, len(labels))))
    for mask in blobs(generator, annotation.size, 2):
        masks.append(mask)
        classes.append(int(generator.integers(0, len(labels))))
    painted, kept = flattened([] if nothing else masks, annotation.size)
    return panoptic_result(painted, [classes[place] for place in kept], labels)


def perturbed_instances(
    annotation: Annotation, labels: Sequence[Label], generator: np.random.Generator, copies: int = 2
) -> Segmentation:
    """`copies` of each segment, some of other classes, with scores that tie now and then."""
    things = [label.id for label in labels if label.is_thing]
    masks, classes = [], []
    for segment, label in enumerate(annotation.label_ids.tolist()):
        for _ in range(copies):
            masks.append(perturbed(annotation.mask(segment), generator))
            classes.append(label if generator.random() < 0.85 else int(generator.choice(things)))
    kept = [place for place, mask in enumerate(masks) if mask.any() and labels[classes[place]].is_thing]
    scores = np.round(generator.random(len(kept)), 2)
    return instance_result([masks[p] for p in kept], [classes[p] for p in kept], scores, labels, annotation.size)


@pytest.fixture(scope="module")
def coco() -> tuple[tuple[Label, ...], list[Annotation]]:
    return coco_labels(), list(coco_annotations())


def recording(name: str) -> dict:
    return json.loads(gzip.decompress((Path(__file__).parent / f"{name}_predictions.json.gz").read_bytes()))


def recorded_results(content: dict, names: Sequence[str], labels: Sequence[Label]) -> dict[str, list[Segmentation]]:
    """Task -> what the network found on the images of these names; masks are decoded by pycocotools."""
    from pycocotools import mask as masks

    assert content["labels"] == [label.name for label in labels]
    found: dict[str, list[Segmentation]] = {"panoptic": [], "instance": []}
    for name in names:
        image = content["images"][name]
        for task, results in found.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.x with NumPy 2
                decoded = [masks.decode({"size": image["size"], "counts": each["rle"]}) > 0 for each in image[task]]
            classes = [each["label_id"] for each in image[task]]
            if task == "panoptic":
                painted, _ = flattened(decoded, tuple(image["size"]))
                results.append(panoptic_result(painted, classes, labels))
            else:
                scores = [each["score"] for each in image[task]]
                results.append(instance_result(decoded, classes, scores, labels, tuple(image["size"])))
    return found


Recorded = tuple[tuple[Label, ...], list[Annotation], dict[str, list[Segmentation]]]


@pytest.fixture(scope="module")
def recorded(coco) -> Recorded:
    """The 40 COCO images' labels, truth, and what a network found on them."""
    labels, annotations = coco
    rows = json.loads((COCO / "annotations/panoptic_val2017.json").read_text())["annotations"]
    names = [Path(row["file_name"]).stem for row in rows]
    return labels, annotations, recorded_results(recording("coco"), names, labels)


@pytest.fixture(scope="module")
def nuclei() -> tuple[tuple[Label, ...], list[Annotation]]:
    return (NUCLEUS,), list(nuclei_annotations(24))


@pytest.fixture(scope="module")
def recorded_nuclei() -> Recorded:
    """All 67 images' truth, without a background, and what the shipped nuclei-lite found on them."""
    labels, annotations = (NUCLEUS, BACKGROUND), list(nuclei_annotations(NUCLEI_COUNT))
    names = [path.stem for path in sorted((NUCLEI / "val/labels").glob("*.png"))]
    assert len(annotations) == len(names) == len(recording("nuclei")["images"])
    return labels, annotations, recorded_results(recording("nuclei"), names, labels)


def with_crowds_void_and_nothing(annotations: Sequence[Annotation]) -> Iterator[Annotation]:
    """Of labels that have none of these: the largest nucleus is a crowd, every fourth segment is void, and every tenth
    image has no segment."""
    for number, annotation in enumerate(annotations):
        (plane,) = annotation.planes  # [H, W]
        kept = [k for k in range(1, len(annotation) + 1) if k % 4 != 3] if number % 10 else []
        areas = [(plane == k).sum() * (annotation.label_ids[k - 1] == NUCLEUS.id) for k in kept]
        renumbered = np.zeros(len(annotation) + 1, np.int32)
        renumbered[kept] = np.arange(1, len(kept) + 1)
        crowd = [int(np.argmax(areas)) + 1] if kept else []
        yield annotation_of(renumbered[plane], annotation.label_ids[np.array(kept, int) - 1], crowd)


# PQ


def our_quality(labels: Sequence[Label], pairs: Pairs) -> PanopticQuality:
    quality = PanopticQuality(labels)
    for annotation, result in pairs:
        quality.add(annotation, result)
    return quality


def panoptic_files(folder, labels: Sequence[Label], pairs: Pairs):
    """The pairs as COCO panoptic JSON and PNGs; returns the names of the two JSON files."""
    import cv2

    categories = [
        {"id": label.category_id, "name": label.name, "isthing": int(label.is_thing), "color": [0, 0, 0]}
        for label in labels
    ]
    truth, found = [], []
    for number, (annotation, result) in enumerate(pairs):
        of_truth = [(k, int(c)) for k, c in zip(annotation.label_ids.tolist(), annotation.crowd, strict=True)]
        of_result = [(segment.label_id, 0) for segment in result.segments]
        for name, rows, segments, ids in (
            ("truth", truth, of_truth, annotation.planes[0]), ("found", found, of_result, result.label_map),
        ):  # fmt: skip
            (folder / name).mkdir(exist_ok=True)
            colors = np.stack([ids // 65536, ids // 256 % 256, ids % 256], axis=2).astype(np.uint8)  # [H, W, 3] BGR
            cv2.imwrite(str(folder / name / f"{number}.png"), colors)
            info = [
                {"id": i, "category_id": labels[k].category_id, "iscrowd": c, "area": int((ids == i).sum()),
                 "bbox": [0, 0, 1, 1]}
                for i, (k, c) in enumerate(segments, start=1)
            ]  # fmt: skip
            rows.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    images = [
        {"id": n, "file_name": f"{n}.png", "height": a.size[0], "width": a.size[1]} for n, (a, _) in enumerate(pairs)
    ]
    for name, rows in (("truth", truth), ("found", found)):
        content = {"images": images, "categories": categories, "annotations": rows}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder / "truth.json"), str(folder / "found.json")


def assert_quality(quality: PanopticQuality, theirs: dict) -> None:
    ours = quality.metrics()
    for suffix, group in (("", "All"), ("_things", "Things"), ("_stuff", "Stuff")):
        if f"PQ{suffix}" in ours:
            expected = {f"{name}{suffix}": theirs[group][name.lower()] for name in ("PQ", "SQ", "RQ")}
            assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for label, row in zip(quality.labels, quality.class_quality(), strict=True):
        of_class = theirs["per_class"][label.category_id]
        expected = [max(0, of_class[name]) for name in ("pq", "sq", "rq")]  # an absent class: 0 in one, -1 in the other
        assert np.nan_to_num(row) == pytest.approx(expected, abs=1e-6), label.name


def panopticapi_quality(folder, labels: Sequence[Label], pairs: Pairs) -> dict:
    evaluation = pytest.importorskip(
        "panopticapi.evaluation",
        reason="the oracle: pip install --no-deps panopticapi-lite pillow (it pins NumPy below 2)",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluation.pq_compute(*panoptic_files(folder, labels, pairs))


def hotcoco_quality(folder, labels: Sequence[Label], pairs: Pairs) -> dict:
    from hotcoco import panoptic

    with contextlib.redirect_stdout(io.StringIO()):
        return panoptic.pq_compute(*panoptic_files(folder, labels, pairs))


ORACLES = pytest.mark.parametrize("oracle", [panopticapi_quality, hotcoco_quality])


@ORACLES
@pytest.mark.parametrize("seed", range(4))
def test_quality_of_made_up_images(oracle, seed, tmp_path):
    labels, pairs = made_up_panoptic(seed)
    quality = our_quality(labels, pairs)
    assert 0 < quality.metrics()["PQ"] < 1
    assert any(annotation.crowd.any() for annotation, _ in pairs)
    assert_quality(quality, oracle(tmp_path, labels, pairs))


@needs_coco
@ORACLES
def test_quality_on_coco(oracle, coco, tmp_path):
    labels, annotations = coco
    generator = np.random.default_rng(0)
    pairs = [(annotation, perturbed_panoptic(annotation, labels, generator)) for annotation in annotations]
    assert any(annotation.crowd.any() for annotation in annotations)
    quality = our_quality(labels, pairs)
    assert 0 < quality.metrics()["PQ_stuff"] < 1
    assert_quality(quality, oracle(tmp_path, labels, pairs))


@needs_coco
@ORACLES
def test_quality_of_a_networks_predictions_on_coco(oracle, recorded, tmp_path):
    labels, annotations, found = recorded
    pairs = list(zip(annotations, found["panoptic"], strict=True))
    assert any(not result.segments for _, result in pairs)
    assert any(annotation.crowd.any() for annotation in annotations)
    quality = our_quality(labels, pairs)
    assert 0 < quality.metrics()["PQ"] < 0.2  # of a network that has not seen the like
    assert_quality(quality, oracle(tmp_path, labels, pairs))


@needs_nuclei
@ORACLES
def test_quality_on_nuclei_with_a_background(oracle, nuclei, tmp_path):
    """What no nucleus covers is stuff, in the truth and in the predictions."""
    _, annotations = nuclei
    labels, generator, pairs = (NUCLEUS, BACKGROUND), np.random.default_rng(0), []
    match = match_classes(labels, Samples([NUCLEUS], []), "panoptic")
    for annotation in annotations[:8]:
        result = perturbed_panoptic(annotation, labels[:1], generator)
        segment_map = np.where(result.label_map == 0, len(result.segments) + 1, result.label_map)
        classes = [0] * len(result.segments) + [1]
        pairs.append((match.translate(annotation), panoptic_result(segment_map, classes, labels)))
    quality = our_quality(labels, pairs)
    assert 0 < quality.metrics()["PQ_things"] < quality.metrics()["PQ_stuff"] < 1
    assert_quality(quality, oracle(tmp_path, labels, pairs))


def row_of_nuclei_lite(task: str) -> dict[str, str]:
    """Of results/accuracy.csv: the fp32 engine of the checkpoint that the recording is of, on all 67 images."""
    wanted = {
        "task": task, "checkpoint_sha256": recording("nuclei")["checkpoint_sha256"], "precision": "fp32",
        "backend": "onnxruntime", "data": "dsb2018", "split": "val", "images": str(NUCLEI_COUNT),
    }  # fmt: skip
    with (ROOT / "benchmarks/results/accuracy.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.items() >= wanted.items()][-1]


@needs_nuclei
@ORACLES
def test_quality_of_nuclei_lite_is_that_of_the_results(oracle, recorded_nuclei, tmp_path):
    """The evaluator's own rule makes a background of what no nucleus covers; the oracle gets it by a plain line."""
    labels, annotations, found = recorded_nuclei
    match = match_classes(labels, Samples([NUCLEUS], []), "panoptic")
    quality = our_quality(labels, list(zip(map(match.translate, annotations), found["panoptic"], strict=True)))
    theirs = oracle(tmp_path, labels, list(zip(map(with_background, annotations), found["panoptic"], strict=True)))
    assert_quality(quality, theirs)
    row = row_of_nuclei_lite("panoptic")
    figures = {"PQ": theirs["All"]["pq"], "PQ_things": theirs["Things"]["pq"], "PQ_stuff": theirs["Stuff"]["pq"]}
    assert figures == pytest.approx({name: float(row[name]) for name in figures}, abs=1e-4)


@needs_nuclei
@ORACLES
def test_quality_of_nuclei_lite_among_crowds_void_and_nothing(oracle, recorded_nuclei, tmp_path):
    labels, annotations, found = recorded_nuclei
    truth = list(with_crowds_void_and_nothing(list(map(with_background, annotations))))
    assert any(annotation.crowd.any() for annotation in truth)
    assert any(not len(annotation) for annotation in truth)
    pairs = list(zip(truth, found["panoptic"], strict=True))
    quality = our_quality(labels, pairs)
    assert 0.3 < quality.metrics()["PQ_things"] < quality.metrics()["PQ_stuff"] < 1
    assert_quality(quality, oracle(tmp_path, labels, pairs))


# AP


def pycocotools_precision(labels: Sequence[Label], pairs: Pairs, detections: int):
    """COCOeval after accumulate(), from masks that pycocotools encodes itself."""
    from pycocotools import mask as masks
    from pycocotools.coco import COCO as PycocoData
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for number, (annotation, result) in enumerate(pairs, start=1):
        for segment, label in enumerate(annotation.label_ids.tolist()):
            mask = np.asfortranarray(annotation.mask(segment), np.uint8)
            if labels[label].is_thing:
                encoded = masks.encode(mask)
                truth.append(
                    {"id": len(truth) + 1, "image_id": number, "category_id": label, "area": int(mask.sum()),
                     "bbox": masks.toBbox(encoded).tolist(), "iscrowd": int(annotation.crowd[segment]),
                     "segmentation": encoded}
                )  # fmt: skip
        for segment in result.segments:
            encoded = masks.encode(np.asfortranarray(segment.mask, np.uint8))
            found.append(
                {"image_id": number, "category_id": segment.label_id, "score": segment.score, "segmentation": encoded}
            )
    things = [{"id": label.id, "name": label.name} for label in labels if label.is_thing]
    images = [{"id": n, "height": a.size[0], "width": a.size[1]} for n, (a, _) in enumerate(pairs, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        data = PycocoData()
        data.dataset = {"info": {}, "images": images, "annotations": truth, "categories": things}
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), "segm")
        evaluation.params.maxDets = [detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]


def assert_precision(labels: Sequence[Label], pairs: Pairs, detections: int) -> dict[str, float]:
    ours = AveragePrecision([label for label in labels if label.is_thing], detections)
    for annotation, result in pairs:
        ours.add(annotation, result)
    precision, recall = pycocotools_precision(labels, pairs, detections)

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else None

    expected = {
        "AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0]),
        "AP_small": mean(precision[..., 1]), "AP_medium": mean(precision[..., 2]), "AP_large": mean(precision[..., 3]),
        "AR": mean(recall[..., 0]),
    }  # fmt: skip
    expected = {name: figure for name, figure in expected.items() if figure is not None}
    assert ours.metrics() == pytest.approx(expected, abs=1e-6)
    assert [row["AP"] for row in ours.per_class().values()] == pytest.approx(
        [mean(precision[:, :, k, 0]) for k in range(precision.shape[2])], abs=1e-6
    )
    return expected


@pytest.mark.parametrize("detections", [2, 100])
@pytest.mark.parametrize("seed", range(4))
def test_precision_of_made_up_images(seed, detections):
    generator, pairs = np.random.default_rng(seed), []
    labels = labels_of("abc")
    for image in range(14):
        painted, _ = flattened(blobs(generator, SIZE, 0 if image == 3 else 6), SIZE)
        classes = generator.integers(0, 3, painted.max()).tolist()
        crowd = [number for number in range(1, len(classes) + 1) if generator.random() < 0.2]
        annotation = annotation_of(painted, classes, crowd)
        result = perturbed_instances(annotation, labels, generator)
        pairs.append((annotation, instance_result([], [], [], labels, SIZE) if image == 5 else result))
    assert any(annotation.crowd.any() for annotation, _ in pairs)
    assert 0 < assert_precision(labels, pairs, detections)["AP"] < 1


@needs_coco
def test_precision_on_coco(coco):
    """Panoptic labels as instances: things count, crowds are ignored."""
    labels, annotations = coco
    generator = np.random.default_rng(0)
    pairs = [(annotation, perturbed_instances(annotation, labels, generator, copies=1)) for annotation in annotations]
    assert 0 < assert_precision(labels, pairs, 100)["AP"] < 1


@needs_coco
def test_precision_of_a_networks_predictions_on_coco(recorded):
    labels, annotations, found = recorded
    assert any(not result.segments for result in found["instance"])
    assert 0 < assert_precision(labels, list(zip(annotations, found["instance"], strict=True)), 100)["AP"] < 0.2


@needs_nuclei
def test_precision_on_nuclei_with_more_than_a_hundred_in_an_image(nuclei):
    labels, annotations = nuclei
    crowded = max(annotations, key=len)
    generator = np.random.default_rng(0)
    some = [*sorted(annotations, key=len)[:10], crowded]
    assert len(crowded) > 50
    pairs = [(annotation, perturbed_instances(annotation, labels, generator)) for annotation in some]
    assert len(pairs[-1][1].segments) > 100
    by_count = {count: assert_precision(labels, pairs, count)["AP"] for count in (100, 300)}
    assert by_count[100] < by_count[300]


@needs_nuclei
def test_precision_of_nuclei_lite_is_that_of_the_results(recorded_nuclei):
    labels, annotations, found = recorded_nuclei
    row = row_of_nuclei_lite("instance")
    figures = assert_precision(labels, list(zip(annotations, found["instance"], strict=True)), int(row["detections"]))
    # Instances of scores below 0.05, which the recording leaves out, are worth 0.004 of AP.
    assert figures["AP"] == pytest.approx(float(row["AP"]), abs=5e-3)
    assert figures["AP50"] == pytest.approx(float(row["AP50"]), abs=1e-3)


@needs_nuclei
def test_precision_of_nuclei_lite_among_crowds_void_and_nothing(recorded_nuclei):
    """By COCO's hundred detections, of which some images have more."""
    labels, annotations, found = recorded_nuclei
    truth = list(with_crowds_void_and_nothing(annotations))
    assert any(annotation.crowd.any() for annotation in truth)
    assert any(not len(annotation) for annotation in truth)
    assert max(len(result.segments) for result in found["instance"]) > 100
    assert 0.3 < assert_precision(labels, list(zip(truth, found["instance"], strict=True)), 100)["AP"] < 0.7


# mIoU


def perturbed_classes(annotation: Annotation, labels: Sequence[Label], generator: np.random.Generator) -> np.ndarray:
    truth = semantic_map(annotation, -1)
    prediction = np.where(generator.random(truth.shape) < 0.8, truth, generator.integers(0, len(labels)))
    return np.where(prediction < 0, 7, prediction)


def assert_semantic(labels: Sequence[Label], annotations: Sequence[Annotation], predictions: Sequence[np.ndarray]):
    """By plain NumPy, one class at a time, over all images; void is nobody's."""
    matrix = ConfusionMatrix(len(labels))
    intersections, unions = np.zeros(len(labels)), np.zeros(len(labels))
    right = counted = 0
    for annotation, prediction in zip(annotations, predictions, strict=True):
        matrix.add(semantic_map(annotation, -1), prediction, ignore=-1)
        known = np.zeros(annotation.size, bool)
        for segment, label in enumerate(annotation.label_ids):
            known |= annotation.mask(segment)
            right += int((annotation.mask(segment) & (prediction == label)).sum())
        counted += int(known.sum())
        for k in np.union1d(annotation.label_ids, prediction):
            of_class = np.zeros(annotation.size, bool)
            for segment in np.flatnonzero(annotation.label_ids == k):
                of_class |= annotation.mask(segment)
            found = (prediction == k) & known
            intersections[k] += (of_class & found).sum()
            unions[k] += (of_class | found).sum()
    expected = {"mIoU": np.mean(intersections[unions > 0] / unions[unions > 0]), "pixel_accuracy": right / counted}
    assert 0 < expected["mIoU"] < 1
    assert matrix.metrics() == pytest.approx(expected, abs=1e-6)


def class_maps(results: Sequence[Segmentation], rest: int) -> list[np.ndarray]:
    """The classes of panoptic results; what no segment covers is called `rest`."""
    return [np.array([rest, *[segment.label_id for segment in one.segments]])[one.label_map] for one in results]


@needs_coco
@pytest.mark.parametrize("kind", ["perturbed", "recorded"])
def test_semantic_of_panoptic_labels_on_coco(kind, recorded):
    labels, annotations, found = recorded
    if kind == "perturbed":  # every class in every image
        generator, annotations = np.random.default_rng(0), annotations[:6]
        predictions = [perturbed_classes(annotation, labels, generator) for annotation in annotations]
    else:
        predictions = class_maps(found["panoptic"], rest=7)
    assert_semantic(labels, annotations, predictions)


@needs_nuclei
def test_semantic_of_a_networks_predictions_on_nuclei(recorded_nuclei):
    labels, annotations, found = recorded_nuclei
    truth = list(with_crowds_void_and_nothing(list(map(with_background, annotations))))
    assert_semantic(labels, truth, class_maps(found["panoptic"], rest=BACKGROUND.id))
