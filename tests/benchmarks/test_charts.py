"""charts.py: marks lie where their values say, whatever the values are."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mask2edge.benchmarks.reporting.charts import HEIGHT, WIDTH, Point, scatter

value = st.floats(0.1, 5000, allow_nan=False)
share = st.floats(0, 1, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work has the cores, too
@given(st.lists(st.tuples(value, share, st.sampled_from("abcde")), min_size=1, max_size=12))
def test_any_points_make_a_picture_that_holds_them(found):
    points = [Point(x, y, f"p{n}", series, f"row-{n}") for n, (x, y, series) in enumerate(found)]
    tree = ElementTree.fromstring(scatter(points, "ms", "mIoU", "title"))
    links = [element.get("href") for element in tree.iter("a")]
    assert sorted(links) == sorted(f"#row-{n}" for n in range(len(points)))
    for circle in tree.iter("circle"):
        assert 0 < float(circle.get("cx")) < WIDTH
        assert 0 < float(circle.get("cy")) < HEIGHT


def test_order_and_proportion():
    """x is logarithmic, y linear and upwards."""
    points = [Point(10, 0.2, "a", "s", "r-1"), Point(100, 0.4, "b", "s", "r-2"), Point(1000, 0.5, "c", "s", "r-3")]
    text = scatter(points, "ms", "AP", "t")
    x, y = (
        list(map(float, re.findall(rf'<circle class="mark"[^>]* {name}="([\d.]+)"', text))) for name in ("cx", "cy")
    )
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.3)
    assert y[0] - y[1] == pytest.approx(2 * (y[1] - y[2]), abs=0.3)


def test_labels_of_points_that_coincide_lie_apart():
    points = [Point(75.0, 0.7244, "fp32", "s", "r-1"), Point(75.4, 0.7243, "fp16", "s", "r-2")]
    first, second = re.findall(
        r'<text x="[\d.]+" y="([\d.]+)" text-anchor="middle">fp', scatter(points, "ms", "m", "t")
    )
    assert abs(float(first) - float(second)) > 12


def test_words_are_escaped_and_a_published_plot_is_marked():
    text = scatter([Point(1, 0.5, "<x>", 'a "b" & c', "r-1")], "ms", "PQ", "<t>", published=True)
    ElementTree.fromstring(text)
    assert "<x>" not in text
    assert 'class="plot published"' in text
