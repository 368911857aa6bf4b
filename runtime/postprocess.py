"""From logits to segments, as the original does it (maskformer_model.py of facebookresearch/Mask2Former).

    result = panoptic(class_logits, mask_logits, prepared.padded, prepared.content, prepared.image, spec.model)

All functions take one image: class_logits float32 [Q, K+1] (the last: no object), mask_logits float32 [Q, h, w] at a
quarter of the padded input (H, W); the content (hc, wc) is the image as resized, at the top left of the padded input;
the result has the size of the original image (H0, W0). Mask logits go bilinearly to the padded size, lose the padding,
and go bilinearly to the image. No step holds Q masks at the image's size: those are 800 MB for 100 queries at 1080p.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from mask2edge.runtime import rle
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import ModelSpec

Size = tuple[int, int]
BAND_VALUES = 1 << 22  # mask values (all queries, some rows) that semantic output works on at a time: 16 MB


def semantic(
    class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size, spec: ModelSpec
) -> Segmentation:
    """The best class of each pixel; class scores are sums over queries of class probability x mask probability.

    `spec.postprocessing.semantic_order` says whether scores are formed at the image's size or at the padded size.
    """
    _check(class_logits, mask_logits, padded, content, spec)
    probabilities = _softmax(class_logits)[:, :-1]  # [Q, K]
    if spec.postprocessing.semantic_order == "padded":
        label_map, best = _semantic_at_padded(probabilities, mask_logits, padded, content, image)
    else:
        label_map, best = _semantic_at_image(probabilities, mask_logits, padded, content, image)
    sums = np.bincount(label_map.reshape(-1), weights=best.reshape(-1), minlength=spec.num_classes)  # [K]
    areas = np.bincount(label_map.reshape(-1), minlength=spec.num_classes)  # [K]
    scores = {int(label): float(sums[label] / areas[label]) for label in np.flatnonzero(areas)}
    segments = [_segment(label_map, spec, label, label, score) for label, score in scores.items()]
    return Segmentation(label_map, tuple(segments), "semantic", spec.labels)


def panoptic(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    padded: Size,
    content: Size,
    image: Size,
    spec: ModelSpec,
    object_threshold: float | None = None,
    overlap_threshold: float | None = None,
) -> Segmentation:
    """Each pixel in at most one segment; things apart, stuff of one class together. Thresholds None: the spec's.

    Raises InputError where the labels do not say what is a thing.
    """
    _check(class_logits, mask_logits, padded, content, spec)
    check_things(spec)
    if object_threshold is None:
        object_threshold = spec.postprocessing.object_threshold
    if overlap_threshold is None:
        overlap_threshold = spec.postprocessing.overlap_threshold
    probabilities = _softmax(class_logits)  # [Q, K+1]
    labels = probabilities.argmax(axis=1)  # [Q]
    scores = probabilities.max(axis=1)  # [Q]
    kept = np.flatnonzero((labels != spec.num_classes) & (scores > object_threshold))

    # A running argmax over score x mask probability, the first query winning a tie.
    best = np.full(image, -1, np.float32)  # [H0, W0]
    winner = np.zeros(image, np.int32)  # [H0, W0], index into kept + 1
    solid = np.zeros(image, bool)  # [H0, W0]: the winner's mask probability is at least one half
    own_areas = []
    for position, query in enumerate(kept, start=1):
        mask = _sigmoid(_to_image(mask_logits[query], padded, content, image))  # [H0, W0]
        inside = mask >= 0.5
        own_areas.append(int(np.count_nonzero(inside)))
        mask *= scores[query]
        wins = mask > best
        np.copyto(best, mask, where=wins)
        np.copyto(winner, position, where=wins)
        np.copyto(solid, inside, where=wins)
    won_areas = np.bincount(winner.reshape(-1), minlength=len(kept) + 1)
    solid_areas = np.bincount(winner[solid], minlength=len(kept) + 1)

    ids = np.zeros(len(kept) + 1, np.int32)  # winner -> segment id
    found: list[tuple[int, float]] = []  # (label, score) of segments 1, 2, …
    stuff: dict[int, int] = {}  # label -> its segment id
    for position, query in enumerate(kept, start=1):
        own_area, label, score = own_areas[position - 1], int(labels[query]), float(scores[query])
        if not solid_areas[position] or won_areas[position] / own_area < overlap_threshold:
            continue
        if label in stuff:
            ids[position] = stuff[label]
            found[stuff[label] - 1] = (label, max(score, found[stuff[label] - 1][1]))
            continue
        found.append((label, score))
        ids[position] = len(found)
        if not spec.labels[label].is_thing:
            stuff[label] = len(found)
    label_map = ids[winner]  # [H0, W0]
    label_map[~solid] = 0
    segments = [_segment(label_map, spec, number, *entry) for number, entry in enumerate(found, start=1)]
    return Segmentation(label_map, tuple(segments), "panoptic", spec.labels)


def instance(
    class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size, spec: ModelSpec
) -> Segmentation:
    """The best `instance_top_k` pairs of query and class, each with the query's mask, in the order of rising score.

    A model with panoptic output returns things alone. Pairs whose mask is empty are left out: their score is 0.
    """
    _check(class_logits, mask_logits, padded, content, spec)
    probabilities = _softmax(class_logits)[:, :-1]  # [Q, K]
    best_pairs = np.argsort(-probabilities, axis=None, kind="stable")[: spec.postprocessing.instance_top_k]
    labels_of: dict[int, list[int]] = {}  # query -> its labels: its mask is made once
    for pair in best_pairs.tolist():
        query, label = divmod(pair, spec.num_classes)
        if "panoptic" not in spec.tasks or spec.labels[label].is_thing:
            labels_of.setdefault(query, []).append(label)

    found: list[tuple[float, int, int, tuple[int, int, int, int], np.ndarray]] = []
    # Painting in the order of rising score is keeping, at each pixel, the mask of the highest score.
    surest = np.full(image, -1, np.float32)  # [H0, W0]
    painted = np.zeros(image, np.int32)  # [H0, W0], index into found + 1
    for query, labels in labels_of.items():
        mask_logit = _to_image(mask_logits[query], padded, content, image)  # [H0, W0]
        mask = mask_logit > 0
        area = int(np.count_nonzero(mask))
        if not area:
            continue
        mask_score = float(_sigmoid(mask_logit[mask]).sum(dtype=np.float64)) / (area + 1e-6)
        box = _box(mask)
        counts = rle.encode(mask, box)
        scores = [float(np.float32(probabilities[query, label] * mask_score)) for label in labels]
        for label, score in zip(labels, scores, strict=True):
            found.append((score, label, area, box, counts))
        # best_pairs is in falling order, hence so are one query's labels: its first is the one on top.
        top = mask & (surest < scores[0])
        surest[top] = scores[0]
        painted[top] = len(found) - len(scores) + 1

    order = sorted(range(len(found)), key=lambda index: (found[index][0], -index))  # of equals the first is on top
    ids = np.zeros(len(found) + 1, np.int32)  # painted -> segment id
    ids[[index + 1 for index in order]] = np.arange(1, len(found) + 1)
    label_map = ids[painted]  # [H0, W0]
    segments = []
    for number, index in enumerate(order, start=1):
        score, label, area, box, counts = found[index]
        name, is_thing = spec.labels[label].name, spec.labels[label].is_thing
        segments.append(Segment(number, label, name, is_thing, score, area, box, label_map, counts))
    return Segmentation(label_map, tuple(segments), "instance", spec.labels)


def _semantic_at_image(
    probabilities: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size
) -> tuple[np.ndarray, np.ndarray]:
    """label map and winning score, both [H0, W0]; some rows of all queries at a time."""
    height, width = image
    mask_height = mask_logits.shape[1]
    rows = _resize(_padded_rows(mask_height, padded, content), (height, mask_height))  # [H0, h]
    label_map = np.empty(image, np.int32)  # [H0, W0]
    best = np.empty(image, np.float32)  # [H0, W0]
    for top, masks in _mask_bands(mask_logits, rows, padded[1], content[1], width):  # [B, Q, W0]
        scores = masks.transpose(0, 2, 1) @ probabilities  # [B, W0, K]
        label_map[top : top + len(masks)] = scores.argmax(axis=2)
        best[top : top + len(masks)] = scores.max(axis=2)
    return label_map, best


def _semantic_at_padded(
    probabilities: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, image: Size
) -> tuple[np.ndarray, np.ndarray]:
    """label map and winning score, both [H0, W0]; one class at a time goes to the image's size."""
    classes = probabilities.shape[1]
    rows = _padded_rows(mask_logits.shape[1], padded, content)  # [hc, h]
    scores = np.empty((classes, *content), np.float32)  # [K, hc, wc]
    for top, masks in _mask_bands(mask_logits, rows, padded[1], content[1], content[1]):  # [B, Q, wc]
        scores[:, top : top + len(masks)] = (probabilities.T @ masks).transpose(1, 0, 2)
    best = np.full(image, -np.inf, np.float32)  # [H0, W0]
    label_map = np.zeros(image, np.int32)  # [H0, W0]
    for label in range(classes):
        score = _resize(scores[label], image)  # [H0, W0]
        wins = score > best
        np.copyto(best, score, where=wins)
        np.copyto(label_map, label, where=wins)
    return label_map, best


def _padded_rows(mask_height: int, padded: Size, content: Size) -> np.ndarray:
    """[hc, h]: what resizing does to rows, times a mask's rows. It is what resizing does to the identity."""
    return _resize(np.eye(mask_height, dtype=np.float32), (padded[0], mask_height))[: content[0]]


def _mask_bands(
    mask_logits: np.ndarray, rows: np.ndarray, padded_width: int, content_width: int, width: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Mask probabilities of all queries, some rows at a time: (first row, [B, Q, width]).

    Interpolation treats rows and columns independently: rows are a product with `rows` [H, h], columns are resized.
    """
    queries, mask_height, mask_width = mask_logits.shape
    side_by_side = mask_logits.transpose(1, 0, 2).reshape(mask_height, queries * mask_width)  # [h, Q*w]
    step = max(1, BAND_VALUES // (queries * max(width, padded_width)))
    for top in range(0, len(rows), step):
        band = (rows[top : top + step] @ side_by_side).reshape(-1, mask_width)  # [B*Q, w]
        band = _resize(band, (len(band), padded_width))[:, :content_width]  # [B*Q, wc]
        yield top, _sigmoid(_resize(band, (len(band), width))).reshape(-1, queries, width)


def _to_image(mask_logits: np.ndarray, padded: Size, content: Size, image: Size) -> np.ndarray:
    """[h, w] at a quarter of the padded input -> [H0, W0]: to the padded size, crop, to the image's."""
    return _resize(_resize(mask_logits, padded)[: content[0], : content[1]], image)


def _resize(values: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear without a filter, as F.interpolate(align_corners=False) does it; a new array."""
    # The same size is a copy, so that callers may work in place.
    if values.shape == size:
        return np.array(values, np.float32)
    return cv2.resize(np.ascontiguousarray(values), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """In place where it can be: the masks are large."""
    with np.errstate(over="ignore"):  # exp(100) is inf, and 1 / inf the right 0
        np.negative(values, out=values)
        np.exp(values, out=values)
        values += 1
        return np.reciprocal(values, out=values)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # [Q, K+1]
    return powers / powers.sum(axis=1, keepdims=True)


def _segment(label_map: np.ndarray, spec: ModelSpec, number: int, label: int, score: float) -> Segment:
    mask = label_map == number  # [H0, W0]
    name, is_thing = spec.labels[label].name, spec.labels[label].is_thing
    return Segment(number, label, name, is_thing, score, int(np.count_nonzero(mask)), _box(mask), label_map)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, x + width, y + height


def _check(class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, spec: ModelSpec) -> None:
    check_shapes(class_logits, mask_logits, padded, content, spec)
    if not (np.isfinite(class_logits).all() and np.isfinite(mask_logits).all()):
        raise InputError(
            "post-processing: expected finite logits, got infinities or NaN: the weights are damaged or the precision "
            "does not suffice; build the engine again with --fp32"
        )


def check_shapes(
    class_logits: np.ndarray, mask_logits: np.ndarray, padded: Size, content: Size, spec: ModelSpec
) -> None:
    """Raises InputError where these are not one image's logits, as the labels count them, and its sizes."""
    if class_logits.ndim != 2 or mask_logits.ndim != 3 or len(class_logits) != len(mask_logits):
        raise InputError(
            "post-processing: expected class_logits [Q, K+1] and mask_logits [Q, h, w] of one image, "
            f"got {list(class_logits.shape)} and {list(mask_logits.shape)}"
        )
    if class_logits.shape[1] != spec.num_classes + 1:
        raise InputError(
            f"post-processing: expected {spec.num_classes} classes and no object, as the labels say, "
            f"got {class_logits.shape[1]} columns; build the engine again"
        )
    if content[0] > padded[0] or content[1] > padded[1]:
        raise InputError(f"post-processing: expected a content within the padded {padded}, got {content}")


def check_things(spec: ModelSpec) -> None:
    """Raises InputError where the labels do not say what is a thing, as panoptic output needs it."""
    if any(label.is_thing is None for label in spec.labels):
        raise InputError("panoptic: expected labels that say which classes are things, got labels that do not")
