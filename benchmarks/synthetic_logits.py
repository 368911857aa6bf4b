"""Logits as a trained Mask2Former gives them, without one: for timing and testing post-processing at any size.

    logits = synthetic_logits(confident=15, queries=100, classes=133, mask=(128, 128))
    logits.class_logits.shape, logits.mask_logits.shape     # (100, 134), (100, 128, 128)

Confident queries share most of the image among them: each has a territory with an irregular border a pixel or two of
the masks wide, its logit rising to about 8 inside and falling to about -12 far away. The other queries are what
networks have in them: weaker copies of the confident ones, displaced, with "no object" as their best class and the rest
of the probability spread over the classes. All masks carry a texture of about 0.3, as wide as two pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Logits:
    class_logits: np.ndarray  # float32 [Q, K+1], the last: no object
    mask_logits: np.ndarray  # float32 [Q, h, w]


def synthetic_logits(
    confident: int, queries: int = 100, classes: int = 133, mask: tuple[int, int] = (128, 128), seed: int = 0
) -> Logits:
    random = np.random.default_rng(seed)
    grid = round(np.sqrt(confident)) + 2  # a territory is about a cell of it wide
    heights = _smooth(random, confident, (grid, grid), mask)  # [C, h, w]
    heights += _smooth(random, confident, (mask[0] // 4, mask[1] // 4), mask) * 0.05  # irregular borders
    rivals = np.sort(np.concatenate([heights, np.zeros_like(heights[:1])]), axis=0)[-2:]  # [2, h, w] second and first
    others = np.where(heights == rivals[1], rivals[0], rivals[1])  # [C, h, w] the best of the others, or 0: nobody's
    # How far ahead a query is, in pixels of the masks, about: a coarse cell is mask / grid pixels wide.
    ahead = (heights - others) * (min(mask) / grid)  # [C, h, w]
    sure = 10 * np.tanh(ahead / 4) - 2  # [C, h, w], -12 … 8
    mask_logits = np.empty((queries, *mask), np.float32)
    mask_logits[:confident] = sure
    for query in range(confident, queries):
        shift = random.integers(-3, 4, 2)
        copy = np.roll(sure[random.integers(confident)], shift, (0, 1))  # [h, w]
        mask_logits[query] = copy * random.uniform(0.5, 0.9) - random.uniform(0, 4)
    mask_logits += 0.3 * _smooth(random, queries, (mask[0] // 2, mask[1] // 2), mask)

    class_logits = random.normal(0, 1, (queries, classes + 1)).astype(np.float32)
    class_logits[np.arange(confident), random.integers(0, classes, confident)] = random.uniform(8, 12, confident)
    class_logits[confident:, -1] = random.uniform(6, 10, queries - confident)
    order = random.permutation(queries)
    return Logits(class_logits[order], mask_logits[order])


def _smooth(random: np.random.Generator, count: int, coarse: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """float32 [count, *size]: standard normal noise of the coarse size, enlarged."""
    noise = random.normal(0, 1, (count, *coarse)).astype(np.float32)
    return np.stack([cv2.resize(one, (size[1], size[0]), interpolation=cv2.INTER_CUBIC) for one in noise])
