"""The thread between a source and the pipeline: nothing lost, or the newest; never more than a few; it always ends."""

import threading
import time

import pytest

from mask2edge.runtime.feed import HELD, Feed
from mask2edge.runtime.pictures import Picture

WAIT = 20  # seconds, after which something that should happen has not


def numbered(count: int, droppable: bool = False):
    for index in range(count):
        yield Picture("film", str(index), index=index, droppable=droppable)


def test_all_pictures_in_order():
    with Feed(numbered(500)) as feed:
        assert [picture.index for picture in feed] == list(range(500))
    assert feed.dropped == 0


def test_the_source_waits():
    taken = []

    def source():
        for picture in numbered(100):
            taken.append(picture.index)
            yield picture

    with Feed(source()) as feed:
        pictures = iter(feed)
        next(pictures)
        time.sleep(0.05)
        assert len(taken) <= 1 + HELD + 1
    assert len(taken) <= 1 + HELD + 1


def test_the_newest_wins_and_none_but_droppable_ones_give_way():
    all_made = threading.Event()

    def source():
        yield Picture("a", "keep")
        yield from numbered(100, droppable=True)
        all_made.set()

    with Feed(source()) as feed:
        assert all_made.wait(WAIT)
        found = list(feed)
    assert [picture.name for picture in found] == ["keep", "99"]
    assert feed.dropped == 99


def test_an_error_comes_after_the_pictures():
    def source():
        yield from numbered(1)
        raise RuntimeError("a bug")

    with Feed(source()) as feed:
        pictures = iter(feed)
        assert next(pictures).index == 0
        with pytest.raises(RuntimeError, match="a bug"):
            next(pictures)


def test_it_ends_where_the_source_hangs():
    ended, hangs = threading.Event(), threading.Event()

    def source():
        yield from numbered(1)
        hangs.wait(WAIT)

    with Feed(source(), ended.is_set) as feed:
        pictures = iter(feed)
        next(pictures)
        ended.set()
        assert next(pictures, None) is None
        hangs.set()


def test_leaving_closes_the_source():
    closed = threading.Event()

    def source():
        try:
            yield from numbered(1000)
        finally:
            closed.set()

    with Feed(source()) as feed:
        next(iter(feed))
    assert closed.wait(WAIT)
