"""Run lengths against pycocotools, segments, pictures, and the files that other tools read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mask2edge.runtime import formats, rle
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.drawing import _deepest, segment_color
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import Label

LABELS = (Label(0, "car", True, (10, 20, 200), 3), Label(1, "road", False, (128, 64, 128), 149))
MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))


def make_result(task: str = "panoptic") -> Segmentation:
    label_map = np.zeros((40, 60), np.int32)
    label_map[20:] = 1
    label_map[5:15, 10:30] = 2
    label_map[5:15, 35:55] = 3
    segments = (
        Segment(1, 1, "road", False, 0.9, 1200, (0, 20, 60, 40), label_map),
        Segment(2, 0, "car", True, 0.8, 200, (10, 5, 30, 15), label_map),
        Segment(3, 0, "car", True, 0.3, 200, (35, 5, 55, 15), label_map),
    )
    return Segmentation(label_map, segments, task, LABELS)


@settings(deadline=None)
@given(MASKS)
def test_run_lengths_are_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = rle.encode(mask)
    assert rle.to_string(counts) == theirs["counts"].decode()
    np.testing.assert_array_equal(rle.from_string(theirs["counts"].decode()), counts)
    np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)
    assert coco.area(theirs) == counts[1::2].sum()


@given(MASKS)
def test_a_box_spares_work_and_changes_nothing(mask):
    ys, xs = np.nonzero(mask)
    if len(xs):
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        np.testing.assert_array_equal(rle.encode(mask, box), rle.encode(mask))
    else:
        assert rle.encode(mask, (0, 0, 0, 0)).tolist() == rle.encode(mask).tolist() == [mask.size]


def test_long_runs_and_plain_masks():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in (np.zeros((700, 900), bool), np.ones((700, 900), bool), np.tri(700, 900, dtype=bool)):
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert rle.to_string(rle.encode(mask)) == theirs
    with pytest.raises(ValueError, match="whole number at the end"):
        rle.from_string("P")


def test_segments_know_their_masks():
    coco = pytest.importorskip("pycocotools.mask")
    result = make_result()
    assert result.size == (40, 60)
    for segment in result.segments:
        assert segment.mask.dtype == bool
        np.testing.assert_array_equal(segment.mask, result.label_map == segment.id)
        assert coco.area(segment.rle) == segment.area
        x0, y0, x1, y1 = segment.box
        assert coco.toBbox(segment.rle).tolist() == [x0, y0, x1 - x0, y1 - y0]


def test_an_instance_keeps_what_others_cover():
    label_map = np.full((4, 5), 2, np.int32)
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    segment = Segment(1, 0, "car", True, 0.5, 6, (1, 1, 4, 3), label_map, rle.encode(mask))
    np.testing.assert_array_equal(segment.mask, mask)
    assert segment.rle["size"] == [4, 5]


def test_drawing_colors_what_is_there():
    result = make_result()
    image = np.full((40, 60, 3), 100, np.uint8)
    picture = result.draw(image, opacity=1.0, outlines=False, names=False)
    assert (image == 100).all()  # a copy
    assert picture[30, 5].tolist() == [128, 64, 128]  # stuff in its class's colour, BGR
    assert picture[0, 0].tolist() == [100, 100, 100]
    colors = {tuple(picture[y, x]) for y, x in ((10, 20), (10, 45), (30, 5))}
    assert len(colors) == 3  # two cars are told apart
    assert segment_color(result, result.segments[1])[::-1] == tuple(picture[10, 20])
    half = result.draw(image, opacity=0.5, outlines=False, names=False)
    np.testing.assert_allclose(half[30, 5], (np.array([128, 64, 128]) + 100) / 2, atol=1)
    assert (result.draw(image) != half).any()  # outlines and names


def test_drawing_hides_unsure_instances_and_colors_classes():
    image = np.full((40, 60, 3), 100, np.uint8)
    instances = make_result("instance").draw(image, names=False, outlines=False)
    assert (instances[10, 45] == 100).all()
    assert (instances[10, 20] != 100).any()
    semantic = make_result("semantic").draw(image, opacity=1.0, names=False, outlines=False)
    assert semantic[10, 20].tolist() == semantic[10, 45].tolist() == [200, 20, 10]


IDS = st.sampled_from([0, 1, 2, 3, 40_000])


@given(arrays.arrays(np.int32, (5, 6), elements=IDS), st.sampled_from(["panoptic", "instance", "semantic"]), st.data())
def test_drawing_is_pixel_by_pixel_what_it_says(ids, task, data):
    """White where the right or lower neighbour is another segment's, else the image and the colour by the opacity."""
    labels = LABELS if task != "semantic" else LABELS * 20_001
    scores = {number: data.draw(st.sampled_from([0.4, 0.6])) for number in np.unique(ids).tolist()}
    segments = [
        Segment(number, number if task == "semantic" else number % 2, "", number % 2 == 0, score, 1, (0, 0, 6, 5), ids)
        for number, score in scores.items()
        if number or task == "semantic"
    ]
    result = Segmentation(ids, tuple(segments), task, labels)
    image = np.random.default_rng(3).integers(0, 256, (5, 12, 3), np.uint8)[:, ::2]  # not contiguous
    drawn = result.draw(image, opacity=0.25, names=False)
    shown = {one.id: segment_color(result, one)[::-1] for one in segments if task != "instance" or one.score >= 0.5}
    for y, x in np.ndindex(ids.shape):
        neighbours = [ids[y + 1, x]] if y < 4 else []
        neighbours += [ids[y, x + 1]] if x < 5 else []
        if ids[y, x] not in shown:
            expected = image[y, x]
        elif any(neighbour != ids[y, x] for neighbour in neighbours):
            expected = np.full(3, 255)
        else:
            expected = 0.75 * image[y, x] + 0.25 * np.array(shown[ids[y, x]])
        np.testing.assert_allclose(drawn[y, x], expected, atol=0.51)


@settings(deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 900)), elements=st.integers(0, 1)))
def test_a_name_lies_in_its_segment_whatever_its_shape(mask):
    if mask.any():
        x, y = _deepest(mask)
        assert mask[y, x]
    wide = np.zeros((400, 900), np.uint8)
    wide[100:300, 500:800] = 1
    x, y = _deepest(wide)
    assert abs(y - 200) <= 4
    assert 590 <= x <= 710
    thin = np.zeros((1, 900), np.uint8)
    thin[0, 7] = 1  # between the pixels that are looked at
    assert _deepest(thin) == (7, 0)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((41, 60, 3), np.uint8), {}, r"an image of \(40, 60\)"),
        (np.zeros((40, 60), np.uint8), {}, "HxWx3"),
        (np.zeros((40, 60, 3), np.uint8), {"opacity": 1.5}, "opacity of 0 to 1"),
    ],
)
def test_drawing_on_another_image_is_refused(image, options, message):
    with pytest.raises(InputError, match=message):
        make_result().draw(image, **options)


@given(arrays.arrays(np.int32, (3, 4), elements=st.integers(0, 256**3 - 1)))
def test_panoptic_colors_are_ids(ids):
    rgb = formats.panoptic_png(Segmentation(ids, (), "panoptic", LABELS)).astype(np.int64)
    np.testing.assert_array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2], ids)


def test_panoptic_annotation_and_categories():
    annotation = formats.panoptic_annotation(make_result(), 7, "a.png")
    assert (annotation["image_id"], annotation["file_name"]) == (7, "a.png")
    assert annotation["segments_info"][1] == {
        "id": 2, "category_id": 3, "area": 200, "bbox": [10, 5, 20, 10], "iscrowd": 0, "score": 0.8,
    }  # fmt: skip
    categories = formats.categories(LABELS)
    assert categories[1] == {"id": 149, "name": "road", "color": [128, 64, 128], "isthing": 0}


def test_instance_results_load_in_pycocotools():
    coco = pytest.importorskip("pycocotools.coco").COCO()
    result = make_result("instance")
    coco.dataset = {
        "images": [{"id": 5, "height": 40, "width": 60}],
        "annotations": [],
        "categories": formats.categories(LABELS),
    }
    coco.createIndex()
    loaded = coco.loadRes(formats.instance_results(result, 5))
    masks = [loaded.annToMask(annotation).astype(bool) for annotation in loaded.loadAnns(loaded.getAnnIds())]
    for mask, segment in zip(masks, reversed(result.segments), strict=True):
        np.testing.assert_array_equal(mask, segment.mask)


def test_semantic_maps_are_class_ids():
    assert formats.semantic_png(make_result("semantic")).dtype == np.uint8
    many = Segmentation(np.full((1, 1), 299, np.int32), (), "semantic", LABELS * 150)
    assert formats.semantic_png(many).dtype == np.uint16
    assert formats.semantic_png(many)[0, 0] == 299


def test_pictures_are_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(InputError, match=r"a\.nosuch: OpenCV cannot write"):
        formats.write_image(tmp_path / "a.nosuch", np.zeros((2, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []
