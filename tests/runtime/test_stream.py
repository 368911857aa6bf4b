"""A stream of images: the same results as one by one, in order, with reading, network and masks at work together."""

import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cuda_doubles import Machine
from tensorrt_doubles import install, write_plan_engine

from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Profile
from mask2edge.runtime.stream import STEPS, stream

WAIT = 20  # seconds, after which something that should happen has not


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Seven, each of another size and content."""
    random = np.random.default_rng(0)
    return [random.integers(0, 2, (40 + 8 * index, 96, 3), np.uint8).repeat(1, 0) * np.uint8(255) for index in range(7)]


@pytest.fixture
def segmenter(make_engine) -> Segmenter:
    return Segmenter.load(make_engine())


@pytest.mark.parametrize("batch", [1, 3])
def test_results_are_those_of_single_images(make_engine, pictures, batch):
    """Also where the last batch is not full."""
    engine = make_engine(Profile((1, 64, 96), (batch, 64, 96), (batch, 64, 96)))
    with Segmenter.load(engine) as segmenter:
        frames = list(stream(segmenter, pictures, "semantic"))
        assert len(frames) == len(pictures)
        for frame, picture in zip(frames, pictures, strict=True):
            assert frame.source is picture
            np.testing.assert_array_equal(frame.result.label_map, segmenter(picture, "semantic").label_map)
            assert set(frame.times) == set(STEPS)


def test_files_and_a_file_that_is_no_image(segmenter, pictures, tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, picture in zip(files, pictures, strict=False):
        cv2.imwrite(str(file), picture)
    files[1].write_text("not an image")
    good, bad, last = stream(segmenter, files)
    assert good.result is not None
    assert last.result is not None
    np.testing.assert_array_equal(good.image, pictures[0])
    assert bad.result is None
    assert "1.png: expected an image" in str(bad.error)


def test_an_array_that_is_no_image(segmenter, pictures):
    bad, good = stream(segmenter, [pictures[0].astype(np.float32), pictures[1]])
    assert "expected a uint8 array" in str(bad.error)
    assert good.result is not None


def test_an_error_of_the_network_is_each_image_s_own(segmenter, pictures, monkeypatch):
    right = segmenter.session.run
    calls = []

    def run(pixels):
        calls.append(1)
        if len(calls) == 2:
            raise InputError("the network failed")
        return right(pixels)

    monkeypatch.setattr(segmenter.session, "run", run)
    frames = list(stream(segmenter, pictures[:3]))
    assert [str(frame.error) for frame in frames] == ["None", "the network failed", "None"]


def test_another_error_is_raised(segmenter, pictures, monkeypatch):
    def run(pixels):
        raise RuntimeError("a bug")

    monkeypatch.setattr(segmenter.session, "run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        list(stream(segmenter, pictures))


def test_a_task_that_the_model_cannot_do_is_refused_at_once(segmenter):
    with pytest.raises(InputError, match="task: expected one of"):
        stream(segmenter, [], "depth")


def test_the_three_steps_overlap(segmenter, pictures, monkeypatch):
    """The network on the second image waits for the third to be read; the first one's masks wait for that network."""
    third_is_read, second_ran = threading.Event(), threading.Event()
    prepared, ran = [], []
    prepare, run, finish = segmenter.prepare, segmenter.session.run, segmenter.finish

    def noted_prepare(images):
        prepared.append(images)
        if len(prepared) == 3:
            third_is_read.set()
        return prepare(images)

    def waiting_run(pixels):
        ran.append(pixels)
        if len(ran) == 2:
            assert third_is_read.wait(WAIT)
            second_ran.set()
        return run(pixels)

    def waiting_finish(*arguments):
        assert second_ran.wait(WAIT)
        return finish(*arguments)

    monkeypatch.setattr(segmenter, "prepare", noted_prepare)
    monkeypatch.setattr(segmenter.session, "run", waiting_run)
    monkeypatch.setattr(segmenter, "finish", waiting_finish)
    assert all(frame.error is None for frame in stream(segmenter, pictures[:5]))


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_images_are_taken_than_are_worked_on(segmenter, pictures, ahead):
    taken = []

    def sources():
        for index in range(1000):
            taken.append(index)
            yield pictures[index % len(pictures)]

    frames = stream(segmenter, sources(), ahead=ahead)
    for _ in range(3):
        next(frames)
    assert len(taken) <= 3 + 1 + ahead
    frames.close()
    assert len(taken) <= 3 + 1 + ahead


def test_a_result_does_not_wait_for_the_next_source(segmenter, pictures):
    has_result = threading.Event()

    def camera():
        yield pictures[0]
        assert has_result.wait(WAIT)
        yield pictures[1]

    frames = stream(segmenter, camera())
    assert next(frames).source is pictures[0]
    has_result.set()
    assert [frame.source is pictures[1] for frame in frames] == [True]


def test_an_error_of_the_sources_is_raised_after_their_images(segmenter, pictures):
    def sources():
        yield pictures[0]
        raise RuntimeError("the source broke")

    frames = stream(segmenter, sources())
    assert next(frames).result is not None
    with pytest.raises(RuntimeError, match="the source broke"):
        next(frames)


def test_on_a_device_all_steps_are_there(make_engine, pictures, monkeypatch, tmp_path, toy_spec):
    library = tmp_path / "libmask2edge_tensorrt.so"
    library.write_bytes(b"a library")
    machine = install(monkeypatch, Machine(), library=library, model=toy_spec())
    folder = write_plan_engine(make_engine(name="plan"))
    with Segmenter.load(folder, contexts=2) as segmenter:
        frames = list(stream(segmenter, pictures, "panoptic"))
        for frame, picture in zip(frames, pictures, strict=True):
            np.testing.assert_array_equal(frame.result.label_map, segmenter(picture, "panoptic").label_map)
            assert set(frame.times) == set(STEPS)
    assert (machine.leaks(), machine.violations) == ([], [])
