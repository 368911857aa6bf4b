"""The reference's post-processing in torch, with every mask at full size, as maskformer_model.py orders it.

    semantic(class_logits, mask_logits, geometry, order="padded")        # int64 [H0, W0] class ids

Logits are tensors of one image: class_logits [Q, K+1] (the last: no object), mask_logits [Q, h, w]. This is what most
deployments run today, and what ours is compared with in time and pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """(H, W) of the network's input, of the resized image at its top left, and of the original image."""

    padded: Size
    content: Size
    image: Size


def semantic(class_logits: Tensor, mask_logits: Tensor, geometry: Geometry, order: str) -> Tensor:
    """Class ids [H0, W0]; scores are formed at the image's size, or at the padded size and resized (`order`)."""
    probabilities = class_logits.softmax(-1)[:, :-1]  # [Q, K]
    if order == "image":
        masks = masks_at_image(mask_logits, geometry).sigmoid()  # [Q, H0, W0]
        return torch.einsum("qk,qhw->khw", probabilities, masks).argmax(0)
    masks = _bilinear(mask_logits, geometry.padded).sigmoid()  # [Q, H, W]
    scores = torch.einsum("qk,qhw->khw", probabilities, masks)  # [K, H, W]
    return _bilinear(_cropped(scores, geometry), geometry.image).argmax(0)


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: Geometry,
    is_thing: Sequence[bool],
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[int]]:
    """Segment ids from 1, int32 [H0, W0], and the label of each segment."""
    scores, labels = class_logits.softmax(-1).max(-1)  # [Q] each
    masks = masks_at_image(mask_logits, geometry).sigmoid()  # [Q, H0, W0]
    kept = (labels != len(is_thing)) & (scores > object_threshold)  # [Q]
    scores, labels, masks = scores[kept], labels[kept], masks[kept]
    ids = torch.zeros(geometry.image, dtype=torch.int32)  # [H0, W0]
    found: list[int] = []
    stuff: dict[int, int] = {}
    if not len(labels):
        return ids, found
    winners = (scores[:, None, None] * masks).argmax(0)  # [H0, W0]
    for k, label in enumerate(labels.tolist()):
        solid = masks[k] >= 0.5
        won = winners == k
        mask = won & solid
        if not mask.any() or int(won.sum()) / int(solid.sum()) < overlap_threshold:
            continue
        if is_thing[label] or label not in stuff:
            found.append(label)
            if not is_thing[label]:
                stuff[label] = len(found)
        ids[mask] = len(found) if is_thing[label] else stuff[label]
    return ids, found


def instance(
    class_logits: Tensor, mask_logits: Tensor, geometry: Geometry, top_k: int
) -> tuple[Tensor, list[int], Tensor]:
    """Masks bool [N, H0, W0], labels and scores [N], by falling class score."""
    classes = class_logits.shape[1] - 1
    best, pairs = class_logits.softmax(-1)[:, :-1].flatten().topk(min(top_k, len(class_logits) * classes))
    logits = masks_at_image(mask_logits, geometry)[pairs // classes]  # [N, H0, W0]
    masks = logits > 0
    inside = masks.flatten(1).float()  # [N, H0*W0]
    mask_scores = (logits.sigmoid().flatten(1) * inside).sum(1) / (inside.sum(1) + 1e-6)  # [N]
    return masks, (pairs % classes).tolist(), best * mask_scores


def masks_at_image(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """[Q, h, w] -> [Q, H0, W0]: to the padded size, cropped, to the image's."""
    return _bilinear(_cropped(_bilinear(mask_logits, geometry.padded), geometry), geometry.image)


def _cropped(maps: Tensor, geometry: Geometry) -> Tensor:
    return maps[:, : geometry.content[0], : geometry.content[1]]


def _bilinear(maps: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
