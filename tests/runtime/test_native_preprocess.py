"""Preprocessing in C++ against OpenCV's, bit for bit."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge import trt_plugins
from mask2edge.runtime import native_library, preprocess
from mask2edge.runtime.spec import Preprocessing, Profile

if trt_plugins.cpu_library() is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") != "1":
    pytest.skip(trt_plugins.why_no_cpu_library(), allow_module_level=True)

RULES = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), shortest_edge=48, longest_edge=80)


def both(images, rules=RULES, profile=None, threads=0):
    """Pixels from the library and from OpenCV."""
    native = preprocess.preprocess_batch(images, rules, profile, threads)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "find", lambda: None)
        return native, preprocess.preprocess_batch(images, rules, profile, threads)[0]


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Noise, or the two levels at which rounding matters most."""
    random = np.random.default_rng(seed)
    levels = np.arange(256) if seed % 2 else np.array([0, 255])
    return random.choice(levels, (height, width, 3)).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 300), st.integers(1, 6), st.integers(1, 6),
       st.integers(0, 3))  # fmt: skip
def test_is_opencvs_to_the_bit(seed, height, width, padded_height, padded_width, threads):
    profile = Profile.fixed(32 * padded_height, 32 * padded_width)
    native, opencv = both([picture(seed, height, width)], profile=profile, threads=threads)
    np.testing.assert_array_equal(native, opencv)


@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (720, 960), (360, 480), (512, 512), (1024, 1024), (1000, 3), (7, 2500), (1, 1)]
)
def test_usual_and_unusual_sizes(height, width):
    native, opencv = both([picture(height + width, height, width)], profile=Profile.fixed(512, 512))
    np.testing.assert_array_equal(native, opencv)


def test_a_batch_and_images_that_are_views():
    image = picture(1, 200, 150)
    views = [image, image[::-1], image[:, ::-1], image[20:99:2, 3:77], image[:, :, ::-1], np.asfortranarray(image)]
    native, opencv = both(views, profile=Profile((1, 32, 32), (1, 64, 96), (8, 128, 128)))
    np.testing.assert_array_equal(native, opencv)


def test_the_library_is_used_where_the_image_shrinks(monkeypatch):
    """OpenCV is left out there: the test would pass with OpenCV alone as well, and say nothing of the library."""
    monkeypatch.setattr(preprocess.cv2, "resize", None)
    assert native_library.find() is not None
    preprocess.preprocess(picture(1, 301, 200), RULES)
