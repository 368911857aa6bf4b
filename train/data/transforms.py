"""Augmentation of an image with its class map, and the network's targets. Every draw comes from the generator given.

    augment = Augmentation(crop=(512, 512), scale=(0.5, 2.0), flip=True, color_jitter=True, max_category_area=1.0)
    image, label_map = augment(image, label_map, ignore=255, generator=np.random.default_rng(0))

The order is the reference's (mask_former_semantic_dataset_mapper.py): scale, crop, colour, flip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random scale, crop, colour and flip. RGB uint8 [H,W,3] and [H,W] -> [crop H, crop W, 3] and [crop H, crop W].

    crop: (H, W); scale: range of the factor on the image; max_category_area: a crop in which one category has more
    than this part of the labelled pixels is drawn again, ten times at most; 1.0 = no condition. Where the scaled image
    is smaller than the crop, the label map is filled with `ignore` and the image with `fill` (the mean: about 0 after
    normalisation).
    """

    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool
    color_jitter: bool
    max_category_area: float
    fill: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __call__(
        self, image: np.ndarray, label_map: np.ndarray, ignore: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        image, label_map = random_scale(image, label_map, self.scale, generator)
        image, label_map, content = random_crop(
            image, label_map, self.crop, self.max_category_area, ignore, self.fill, generator
        )
        if self.color_jitter:
            height, width = content
            image[:height, :width] = jitter_color(image[:height, :width], generator)
        if self.flip and generator.random() < 0.5:
            image, label_map = image[:, ::-1], label_map[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(label_map)


def random_scale(
    image: np.ndarray, label_map: np.ndarray, scale: tuple[float, float], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both resized by one uniform factor: the image bilinear (by area when it shrinks), the labels nearest."""
    factor = generator.uniform(*scale)
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return (
        cv2.resize(image, (width, height), interpolation=method),  # [h,w,3]
        cv2.resize(label_map, (width, height), interpolation=cv2.INTER_NEAREST),  # [h,w]
    )


def random_crop(
    image: np.ndarray,
    label_map: np.ndarray,
    crop: tuple[int, int],
    max_category_area: float,
    ignore: int,
    fill: tuple[float, float, float],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A window of the size `crop`, padded bottom and right where the image is smaller; and its content's (h, w)."""
    height, width = min(crop[0], image.shape[0]), min(crop[1], image.shape[1])
    for _ in range(CROP_ATTEMPTS):
        top = int(generator.integers(image.shape[0] - height + 1))
        left = int(generator.integers(image.shape[1] - width + 1))
        window = label_map[top : top + height, left : left + width]  # [h,w]
        if max_category_area >= 1 or _largest_category(window, ignore) < max_category_area:
            break
    padded_image = np.empty((*crop, 3), np.uint8)
    padded_image[:] = np.round(fill).astype(np.uint8)
    padded_image[:height, :width] = image[top : top + height, left : left + width]
    padded_labels = np.full(crop, ignore, label_map.dtype)
    padded_labels[:height, :width] = window
    return padded_image, padded_labels, (height, width)


def _largest_category(label_map: np.ndarray, ignore: int) -> float:
    """The part of the labelled pixels that its most frequent category has; 1 where nothing is labelled."""
    counts = np.bincount(label_map[label_map != ignore])  # [categories]
    return float(counts.max() / counts.sum()) if counts.size else 1.0


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


def semantic_targets(label_map: np.ndarray, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes present, int64 [n], and their masks, bool [n,H,W]; ignored pixels are in no mask. n may be 0."""
    classes = np.unique(label_map)
    classes = classes[classes != ignore]  # [n]
    return classes.astype(np.int64), label_map[None] == classes[:, None, None]  # [n], [n,H,W]
