"""Sizes, letterbox, padding, channels and normalisation of what goes into the network."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.preprocess import content_size, preprocess, preprocess_batch
from mask2edge.runtime.spec import Preprocessing, Profile

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
COCO = Preprocessing(MEAN, STD)
FIXED = Profile.fixed(512, 1024)
DYNAMIC = Profile((1, 256, 256), (1, 512, 512), (2, 640, 960))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def detectron2_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """The published rule of ResizeShortestEdge, step by step."""
    scale = short / min(height, width)
    new = [short, scale * width] if height < width else [scale * height, short]
    if max(new) > longest:
        shrink = longest / max(new)
        new = [edge * shrink for edge in new]
    return int(new[0] + 0.5), int(new[1] + 0.5)


@given(
    st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([(800, 1333), (512, 2048), (1024, 2048), (640, 640)])
)
def test_shortest_edge_rule_is_detectron2s(height, width, edges):
    rules = Preprocessing(MEAN, STD, "keep-ratio", *edges)
    expected = tuple(max(1, edge) for edge in detectron2_size(height, width, *edges))
    assert content_size((height, width), rules, None) == expected


@pytest.mark.parametrize("profile", [FIXED, DYNAMIC, None], ids=["fixed", "dynamic", "none"])
@given(st.integers(1, 30000), st.integers(1, 30000))
def test_content_is_never_stretched_by_more_than_rounding(profile, height, width):
    content = content_size((height, width), COCO, profile)
    scale_y, scale_x = content[0] / height, content[1] / width
    # There is one scale from which both edges are at most half a pixel away (or one pixel long, the least there is).
    low = max(
        (content[0] - 0.5 - 1e-6) / height if content[0] > 1 else 0,
        (content[1] - 0.5 - 1e-6) / width if content[1] > 1 else 0,
    )
    high = min((content[0] + 0.5 + 1e-6) / height, (content[1] + 0.5 + 1e-6) / width)
    one_pixel = min(content) == 1 and max(content) > 1
    assert low <= high or one_pixel, (scale_y, scale_x)
    if profile is not None:
        assert content[0] <= profile.max[1]
        assert content[1] <= profile.max[2]
    if profile is FIXED:
        assert content[0] == 512 or content[1] == 1024  # as large as fits


@pytest.mark.parametrize(
    ("size", "profile", "content", "padded"),
    [
        ((480, 640), FIXED, (512, 683), (512, 1024)),
        ((480, 640), None, (800, 1067), (800, 1088)),
        ((480, 640), DYNAMIC, (640, 853), (640, 864)),  # 800x1067 shrunk into 640x960
        ((1, 1), FIXED, (512, 512), (512, 1024)),
        ((1, 1), DYNAMIC, (640, 640), (640, 640)),
        ((20000, 1), FIXED, (512, 1), (512, 1024)),
        ((1, 20000), FIXED, (1, 1024), (512, 1024)),
        ((20000, 1), DYNAMIC, (640, 1), (640, 256)),  # narrower than the least: padded up to it
        ((1, 20000), DYNAMIC, (1, 960), (256, 960)),
        ((20000, 1), None, (1333, 1), (1344, 32)),
    ],
)
def test_sizes(size, profile, content, padded):
    prepared = preprocess(noise(*size), COCO, profile)
    assert (prepared.content, prepared.padded, prepared.image) == (content, padded, size)
    assert prepared.pixels.shape == (1, 3, *padded)
    assert prepared.pixels.dtype == np.float32


def test_fixed_rule_on_a_dynamic_engine_uses_its_best_size():
    prepared = preprocess(noise(100, 300), Preprocessing(MEAN, STD, "fixed"), DYNAMIC)
    assert (prepared.padded, prepared.content) == ((512, 512), (171, 512))
    with pytest.raises(InputError, match="expected a profile"):
        preprocess(noise(4, 4), Preprocessing(MEAN, STD, "fixed"), None)


def test_pixels_are_rgb_normalised_and_padded_with_zero():
    image = noise(512, 700)
    pixels = preprocess(image, COCO, FIXED).pixels
    expected = (image[:, :, ::-1].astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(pixels[0, :, :512, :700], expected.transpose(2, 0, 1), atol=1e-6)
    assert not pixels[0, :, :, 700:].any()


@pytest.mark.parametrize("scale", [0.2, 0.45, 0.8, 1.7])
def test_resizing_comes_close_to_the_references_filter(scale):
    torch = pytest.importorskip("torch")
    # A photograph's smoothness: noise at several scales.
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.normal(size=(n, n, 3)) * 60 / i, (320, 240)) for i, n in enumerate((4, 16, 60, 120), 1)]
    image = np.clip(128 + sum(layers), 0, 255).astype(np.uint8)
    edge = round(240 * scale)
    pixels = preprocess(image, Preprocessing((0.0,) * 3, (1.0,) * 3, "keep-ratio", edge, 9999)).pixels[0]
    height, width = content_size((240, 320), Preprocessing((0.0,) * 3, (1.0,) * 3, "keep-ratio", edge, 9999), None)
    tensor = (
        torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).permute(2, 0, 1)[None].double()
    )  # [1, 3, 240, 320]
    expected = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)[0].numpy()
    off = np.sqrt(np.mean((pixels[:, :height, :width] - expected) ** 2))
    assert off < 4.0  # of 255; OpenCV's unfiltered bilinear is off by 10 at a fifth
    assert abs(pixels[:, :height, :width].mean() - expected.mean()) < 0.5


def test_a_batch_is_padded_to_its_largest_image():
    images = [noise(100, 200), noise(300, 100)]
    pixels, prepared = preprocess_batch(images, Preprocessing(MEAN, STD, "keep-ratio", 64, 160), None)
    assert pixels.shape == (2, 3, 160, 128)
    assert [one.content for one in prepared] == [(64, 128), (160, 53)]
    for index, image in enumerate(images):
        alone = preprocess(image, Preprocessing(MEAN, STD, "keep-ratio", 64, 160))
        height, width = alone.content
        np.testing.assert_array_equal(pixels[index, :, :height, :width], alone.pixels[0, :, :height, :width])
        assert not pixels[index, :, height:].any()
        assert not pixels[index, :, :, width:].any()
    assert preprocess_batch(images[:1], COCO, Profile.fixed(64, 64, batch=3))[0].shape == (3, 3, 64, 64)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "got NoneType"),
        ("street.jpg", "read_image"),
        (np.zeros((4, 4), np.uint8), "got uint8 of 4x4"),
        (np.zeros((4, 4, 4), np.uint8), "got uint8 of 4x4x4"),
        (np.zeros((4, 4, 3), np.uint16), "got uint16"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        preprocess(image, COCO, FIXED)


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_refused():
    for rules in (Preprocessing(MEAN, (1.0, 1e-40, 1.0)), Preprocessing((0.0, 1e300, 0.0), (1.0, 1e-10, 1.0))):
        with pytest.raises(InputError, match="expected a mean and std that leave pixels finite"):
            preprocess(noise(4, 4), rules, FIXED)


def test_a_zero_deviation_is_refused():
    with pytest.raises(InputError, match="std: expected values above 0"):
        preprocess(noise(4, 4), Preprocessing(MEAN, (1.0, 0.0, 1.0)), FIXED)
