"""Names on a command line become sources, and sources pictures; progress says how far and how long."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.progress_lines import ProgressLines
from mask2edge.runtime.sources import count_pictures, find_sources, pictures
from mask2edge.runtime.video_source import Sampling, VideoSource


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One film of 10 frames at 5 a second, two images, one of the film's name."""
    for name in ("a.png", "film.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (32, 32))
    for _ in range(10):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str, stdin: str = "") -> list[str]:
    return [
        f"video {source.address}" if isinstance(source, VideoSource) else source.as_posix()
        for source in find_sources(arguments, io.StringIO(stdin))
    ]


def test_what_names_stand_for(folder):
    assert names("film.avi", ".") == ["video film.avi", "a.png", "film.png"]  # a folder is its images
    assert names("*") == ["a.png", "film.png"]
    assert names("*.avi", "film.avi") == ["video film.avi"]  # each once
    assert names("-", "a.png", stdin="film.png\r\n\n film.avi\n".replace(" ", "")) == [
        "film.png", "video film.avi", "a.png",
    ]  # fmt: skip
    (folder / "0").write_bytes((folder / "a.png").read_bytes())
    assert names("0") == ["0"]  # a file before a camera


def test_a_folder_of_films_is_its_films(folder):
    (folder / "a.png").unlink()
    (folder / "film.png").unlink()
    for other in ("b.TS", ".hidden.avi", "notes.txt"):
        (folder / other).write_bytes((folder / "film.avi").read_bytes())
    assert names(str(folder)) == [f"video {folder}/b.TS", f"video {folder}/film.avi"]
    assert names("*") == ["video b.TS", "video film.avi"]


def test_pictures_of_all_sources_have_names_of_their_own(folder):
    found = list(pictures(find_sources(["film.png", "film.avi", "a.png"]), Sampling(every=5)))
    assert [picture.name for picture in found] == ["film", "film-2-000000", "film-2-000005", "a"]
    assert [picture.image_id for picture in found] == [None] * 4
    assert [picture.read().shape[0] for picture in found] == [8, 32, 32, 8]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["film-000005.png", "film.avi"], ["film-000005", "film-2-000000", "film-2-000005"]),
        (["film.avi", "film-000005.png"], ["film-000000", "film-000005", "film-000005-2"]),
    ],
)
def test_an_image_named_as_a_frame_is_another_picture(folder, order, expected):
    (folder / "a.png").rename(folder / "film-000005.png")
    assert [picture.name for picture in pictures(find_sources(order), Sampling(every=5))] == expected


def test_a_film_that_is_gone_is_an_error_of_its_own(folder):
    sources = find_sources(["film.avi", "a.png"])
    (folder / "film.avi").unlink()
    gone, image = pictures(sources)
    assert image.read().shape == (8, 8, 3)
    with pytest.raises(InputError, match=r"film\.avi: expected a video"):
        gone.read()


@pytest.mark.parametrize(
    ("sampling", "count"),
    [(Sampling(), 11), (Sampling(every=3), 5), (Sampling(most_per_second=1), 3), (Sampling(drop=True), None)],
)
def test_how_many_there_will_be(folder, sampling, count):
    sources = find_sources(["film.avi", "a.png"])
    assert count_pictures(sources, sampling) == count
    if count is not None:
        assert len(list(pictures(sources, sampling))) == count


def test_progress_says_rate_and_time_left(capsys):
    now = [0.0]
    progress = ProgressLines(40, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 0.5
        progress.step(dropped=int(now[0] > 9))
    assert capsys.readouterr().err.splitlines() == [
        "10 of 40 frames, 2.0 frames/s, 15 s left",
        "20 of 40 frames, 2.0 frames/s, 10 s left, 1 dropped",
    ]
    endless = ProgressLines(None, clock=lambda: now[0])
    now[0] += 10
    endless.step()
    assert capsys.readouterr().err == "1 frames, 0.1 frames/s\n"


def test_the_list_may_not_be_empty():
    with pytest.raises(InputError, match="-: expected a list of files on stdin"):
        find_sources(["-"], io.StringIO("\n\n"))
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        find_sources(["-"], io.StringIO(f"{Path('gone.png')}\n"))
