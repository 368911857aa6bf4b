"""Augmentation of an image with its segments, and the network's targets. Every draw comes from the generator given.

    augment = Augmentation(crop=(512, 512), scale=(0.5, 2.0), flip=True, color_jitter=True, max_category_area=1.0)
    image, annotation = augment(image, annotation, generator=np.random.default_rng(0))

The order is the reference's (mask_former_semantic_dataset_mapper.py): scale, crop, colour, flip.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mask2edge.runtime.spec import Label
from mask2edge.train.config import DataConfig
from mask2edge.train.data.annotation import Annotation

CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random scale, crop, colour and flip: any image and its segments -> uint8 [crop H, crop W, 3] and its.

    crop: (H, W). scale: range of the factor, on what `scale_to` says (see `_scaled_size`). max_category_area: a crop in
    which one class has more than this part of the labelled pixels is drawn again; 1.0 = no condition. avoid_empty: so
    is one without any segment, or, in an image that has things (classes `things`), without any thing; ten draws at
    most. vertical_flip, rotate: for images without an upright, as in microscopy; quarter turns. Where the scaled image
    is smaller than the crop, the image is filled with `fill` (the mean: about 0 after normalisation) and no segment.
    """

    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool
    color_jitter: bool
    max_category_area: float
    fill: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale_to: str = "image"
    edges: tuple[int, int] = (512, 2048)
    avoid_empty: bool = False
    vertical_flip: bool = False
    rotate: bool = False
    things: frozenset[int] = frozenset()

    def __call__(
        self, image: np.ndarray, annotation: Annotation, generator: np.random.Generator
    ) -> tuple[np.ndarray, Annotation]:
        size = self._scaled_size(image.shape[:2], generator.uniform(*self.scale))
        image, planes = resized(image, annotation.planes, size)  # [h,w,3], [P,h,w]
        if self.rotate:
            turns = int(generator.integers(4))
            image, planes = np.rot90(image, turns), np.rot90(planes, turns, (1, 2))
        image, planes, content = random_crop(
            image, planes, self.crop, self._condition(annotation), self.fill, generator
        )
        if self.color_jitter:
            height, width = content
            image[:height, :width] = jitter_color(image[:height, :width], generator)
        if self.flip and generator.random() < 0.5:
            image, planes = image[:, ::-1], planes[:, :, ::-1]
        if self.vertical_flip and generator.random() < 0.5:
            image, planes = image[::-1], planes[:, ::-1]
        return np.ascontiguousarray(image), replace(annotation, planes=np.ascontiguousarray(planes))

    def _scaled_size(self, size: tuple[int, int], factor: float) -> tuple[int, int]:
        """(h, w) of the image of that size under a factor on its own size, its shortest edge's, or the crop's.

        image: factor 1 is the image as it is. shortest_edge: factor 1 makes its shortest edge `edges[0]`; the longest
        stays within `edges[1]` (ResizeShortestEdge of the reference's semantic configurations). crop: factor 1 fits it
        into the crop: large-scale jitter (ResizeScale, coco_panoptic_new_baseline_dataset_mapper.py).
        """
        height, width = size
        if self.scale_to == "shortest_edge":
            factor = min(factor * self.edges[0] / min(size), self.edges[1] / max(size))
        elif self.scale_to == "crop":
            factor *= min(self.crop[0] / height, self.crop[1] / width)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _condition(self, annotation: Annotation) -> Callable[[np.ndarray], bool] | None:
        """Whether a window of the planes [P,h,w] will do; None: any does."""
        label_ids = annotation.label_ids
        wanted = ~annotation.crowd  # [n]
        if (things := wanted & np.isin(label_ids, list(self.things))).any():
            wanted = things
        avoid_empty = self.avoid_empty and bool(wanted.any())
        if not avoid_empty and self.max_category_area >= 1:
            return None

        def fits(window: np.ndarray) -> bool:
            pixels = np.bincount(window.ravel(), minlength=len(label_ids) + 1)[1:]  # [n]
            if avoid_empty and not pixels[wanted].any():
                return False
            if self.max_category_area >= 1:
                return True
            areas = np.bincount(label_ids, pixels) if len(label_ids) else np.zeros(1)  # [classes]
            return bool(areas.max() < self.max_category_area * areas.sum())

        return fits


def build_augmentation(
    data: DataConfig, labels: Sequence[Label], fill: tuple[float, float, float] = (127.5, 127.5, 127.5)
) -> Augmentation:
    """What a configuration says, for data of these classes."""
    return Augmentation(
        data.crop,
        data.scale,
        data.flip,
        data.color_jitter,
        data.max_category_area,
        fill,
        scale_to=data.scale_to,
        edges=(data.shortest_edge, data.scale_limit or sys.maxsize),
        avoid_empty=data.avoid_empty,
        vertical_flip=data.vertical_flip,
        rotate=data.rotate,
        things=frozenset(label.id for label in labels if label.is_thing),
    )


def resized(image: np.ndarray, planes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[H,W,3] and [P,H,W] to (h, w): the image bilinear (by area when it shrinks), the segments nearest."""
    if image.shape[:2] == size:
        return image, planes
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return (
        cv2.resize(image, size[::-1], interpolation=method),  # [h,w,3]
        np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_NEAREST) for plane in planes]),  # [P,h,w]
    )


def random_crop(
    image: np.ndarray,
    planes: np.ndarray,
    crop: tuple[int, int],
    fits: Callable[[np.ndarray], bool] | None,
    fill: tuple[float, float, float],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A window of the size `crop`, padded bottom and right where the image is smaller; and its content's (h, w).

    Drawn again, ten times at most, while its planes do not fit.
    """
    height, width = min(crop[0], image.shape[0]), min(crop[1], image.shape[1])
    for _ in range(CROP_ATTEMPTS):
        top = int(generator.integers(image.shape[0] - height + 1))
        left = int(generator.integers(image.shape[1] - width + 1))
        window = planes[:, top : top + height, left : left + width]  # [P,h,w]
        if fits is None or fits(window):
            break
    padded_image = np.empty((*crop, 3), np.uint8)
    padded_image[:] = np.round(fill).astype(np.uint8)
    padded_image[:height, :width] = image[top : top + height, left : left + width]
    padded_planes = np.zeros((len(planes), *crop), planes.dtype)
    padded_planes[:, :height, :width] = window
    return padded_image, padded_planes, (height, width)


def jitter_color(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Brightness ±32, contrast, saturation 0.5-1.5 and hue ±36°, each in half of the cases; RGB uint8 to the same.

    As in SSD (Liu et al., 2016) and the reference's ColorAugSSDTransform: contrast comes before or after the others.
    """
    brightness, contrast, saturation, hue, contrast_first = generator.random(5) < 0.5
    offset = generator.uniform(-32, 32)
    gain, saturation_gain = generator.uniform(0.5, 1.5, 2)
    turn = int(generator.integers(-18, 18))  # OpenCV's hue unit is 2 degrees
    if brightness:
        image = _scaled(image, 1.0, offset)
    if contrast and contrast_first:
        image = _scaled(image, gain, 0.0)
    if saturation or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # [H,W,3]
        if saturation:
            hsv[..., 1] = _scaled(hsv[..., 1], saturation_gain, 0.0)
        if hue:
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        image = _scaled(image, gain, 0.0)
    return image


def _scaled(values: np.ndarray, gain: float, offset: float) -> np.ndarray:
    table = np.clip(np.arange(256) * gain + offset, 0, 255).round().astype(np.uint8)  # [256]
    return table[values]


def normalise(image: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """RGB uint8 [H,W,3] -> float32 [3,H,W], mean and std in 0-255 units."""
    pixels = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)  # [H,W,3]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # [3,H,W]


def targets(annotation: Annotation) -> tuple[np.ndarray, np.ndarray]:
    """Classes, int64 [n], and masks, bool [n,H,W], of the segments that can be seen; n may be 0.

    Crowds are left out, as the reference's mappers do: they are no single object, and the loss does not know them.
    """
    pixels = np.bincount(annotation.planes.ravel(), minlength=len(annotation) + 1)[1:]  # [all segments]
    seen = np.flatnonzero((pixels > 0) & ~annotation.crowd)  # [n]
    masks = np.zeros((len(seen), *annotation.size), bool)  # [n,H,W]
    for plane in annotation.planes:
        masks |= plane == (seen + 1)[:, None, None]
    return annotation.label_ids[seen], masks
