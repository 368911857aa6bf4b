"""The contact sheet shows every picture, undistorted, and every class colour."""

import numpy as np
import pytest

from mask2edge.benchmarks.contact_sheet import COLUMN, MARGIN, MAX_HEIGHT, TITLE, contact_sheet
from mask2edge.runtime.spec import Label

LABELS = tuple(
    Label(i, f"class number {i}", None, (10 * i + 5, 255 - 10 * i, 60 + 7 * i), i) for i in range(19)
)  # enough for several lines


def has_color(sheet, rgb):
    return bool((sheet == np.array(rgb[::-1], np.uint8)).all(-1).any())


def test_pictures_stand_side_by_side_and_the_legend_has_every_color():
    image = np.full((240, 480, 3), (200, 10, 10), np.uint8)
    overlay = np.full((240, 480, 3), (10, 200, 10), np.uint8)
    sheet = contact_sheet([("one", image, overlay)], LABELS)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * COLUMN + 3 * MARGIN
    assert (sheet[TITLE : TITLE + 240, MARGIN : MARGIN + 480] == (200, 10, 10)).all()
    assert (sheet[TITLE : TITLE + 240, 2 * MARGIN + COLUMN : 2 * MARGIN + COLUMN + 480] == (10, 200, 10)).all()
    for label in LABELS:
        assert has_color(sheet[TITLE + 240 :], label.color), label.name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4000, 10), (10, 4000), (300, 200), (1080, 1920)])
def test_any_shape_keeps_its_ratio(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    sheet = contact_sheet([("", image, image)], LABELS[:1])
    dark = (sheet[TITLE:, MARGIN : MARGIN + COLUMN] == 0).all(-1)
    dark[MAX_HEIGHT:] = False
    rows, columns = dark.any(1).sum(), dark[0].sum()
    scale = min(COLUMN / width, MAX_HEIGHT / height)
    assert columns == max(1, round(width * scale))
    assert rows >= max(1, round(height * scale))


def test_without_rows_there_is_a_legend():
    sheet = contact_sheet([], LABELS[:2])
    assert has_color(sheet, LABELS[0].color)
    assert has_color(sheet, LABELS[1].color)


def test_titles_and_names_that_the_font_has_not_do_not_fail():
    image = np.zeros((10, 10, 3), np.uint8)
    assert contact_sheet([("straße_写真", image, image)], [Label(0, "Gebäude", None, (1, 2, 3), 0)]).shape[0] > TITLE
