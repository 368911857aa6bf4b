"""Training batches: dealt to processes, decoded by workers, and whole where files are damaged."""

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_folders import write_instance_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.batches import (
    AUGMENTATION,
    LOSS,
    ORDER,
    Batch,
    derived_seed,
    sample_numbers,
    training_batches,
)
from mask2edge.train.data.cached import Cached
from mask2edge.train.data.instance_labels import InstanceLabels
from mask2edge.train.data.transforms import Augmentation

AUGMENT = Augmentation((32, 32), (0.5, 2.0), True, True, 1.0, avoid_empty=True, vertical_flip=True, rotate=True)
MEAN = STD = (127.5, 127.5, 127.5)


@pytest.fixture
def data(tmp_path: Path) -> InstanceLabels:
    """Seven images of two classes."""
    return InstanceLabels(write_instance_labels(tmp_path, count=7), "train", ("cell", "rest"))


def batches(
    data: Any, steps: range = range(5), batch_size: int = 4, augment: Any = AUGMENT, seed: int = 0, **more: Any
) -> list[Batch]:
    return list(training_batches(data, augment, MEAN, STD, batch_size=batch_size, seed=seed, steps=steps, **more))


def assert_same(one: Batch, other: Batch) -> None:
    assert one.numbers == other.numbers
    assert one.faults == other.faults
    assert torch.equal(one.pixels, other.pixels)
    for mine, theirs in zip(one.targets, other.targets, strict=True):
        assert torch.equal(mine["labels"], theirs["labels"])
        assert torch.equal(mine["masks"], theirs["masks"])


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        torch.cat([part.pixels for part in parts]),
        [target for part in parts for target in part.targets],
        tuple(number for part in parts for number in part.numbers),
        tuple(fault for part in parts for fault in part.faults),
    )


def test_a_batch_holds_pixels_targets_and_numbers(data: InstanceLabels) -> None:
    batch = batches(data, range(2, 3))[0]
    assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 32, 32), torch.float32)
    assert batch.numbers == (8, 9, 10, 11)
    assert (batch.faults, batch.skipped) == ((), 0)
    for target in batch.targets:
        assert target["masks"].shape == (len(target["labels"]), 32, 32)
        assert target["masks"].dtype == torch.bool
        assert target["masks"].flatten(1).any(1).all()
        assert (target["masks"].sum(0) <= 1).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch_of_one(data: InstanceLabels, world_size: int) -> None:
    alone = batches(data)
    parts = [batches(data, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        assert_same(joined([part[step] for part in parts]), whole)


@settings(max_examples=50, deadline=None)
@given(step=st.integers(0, 10_000), world_size=st.integers(1, 8), part=st.integers(1, 8))
def test_every_number_is_dealt_once(step: int, world_size: int, part: int) -> None:
    dealt = [n for rank in range(world_size) for n in sample_numbers(step, world_size * part, rank, world_size)]
    assert dealt == list(range(step * world_size * part, (step + 1) * world_size * part))


def test_a_batch_that_cannot_be_dealt_is_refused(data: InstanceLabels) -> None:
    with pytest.raises(InputError, match=r"a multiple of the 3 processes, got 4; use --set train\.batch_size=6"):
        batches(data, world_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_cache_and_workers_change_nothing(data: InstanceLabels, workers: int) -> None:
    for one, other in zip(batches(data), batches(Cached(data, 1 << 20), workers=workers), strict=True):
        assert_same(one, other)


def test_a_run_that_goes_on_sees_what_an_uninterrupted_one_does(data: InstanceLabels) -> None:
    whole = batches(data, range(6))
    for one, other in zip(whole[4:], batches(data, range(4, 6)), strict=True):
        assert_same(one, other)
    assert not torch.equal(whole[0].pixels, batches(data, range(1), seed=1)[0].pixels)


def test_every_image_comes_once_an_epoch(data: InstanceLabels) -> None:
    for index, (path, _) in enumerate(data.pairs):  # images that can be told apart
        path.write_bytes(_png(np.full_like(data.image(0), 10 * index)))
    still = Augmentation((32, 32), (1, 1), False, False, 1.0)
    seen = [_brightness(batch.pixels[0]) for batch in batches(data, range(21), 1, still)]
    epochs = [seen[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == [0, 10, 20, 30, 40, 50, 60] for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]  # each in its own order


def test_derived_seeds_are_unrelated() -> None:
    seeds = [derived_seed(s, stream, n) for s in range(4) for stream in (ORDER, AUGMENTATION, LOSS) for n in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_replaced_by_the_next_and_counted(
    data: InstanceLabels, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    still = Augmentation((32, 32), (1, 1), False, False, 1.0)
    image = data.image(3)
    for index in range(7):  # images that can be told apart
        image = np.full_like(image, 10 * index)
        path = data.pairs[index][0]
        path.write_bytes(_png(image))
    whole = batches(data, range(7), 2, still)
    for index in (2, 5):
        path = data.pairs[index][0]
        path.write_bytes(path.read_bytes()[:30])
    capfd.readouterr()
    damaged = batches(data, range(7), 2, still, workers=workers)
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2  # once each, though both came in each of the two epochs
    assert all(line.startswith("warning: skipped ") for line in errors)
    assert {line.split(": expected a whole image")[0].split("/")[-1] for line in errors} == {"002.png", "005.png"}
    assert sum(batch.skipped for batch in damaged) >= 4

    before = [_brightness(pixels) for batch in whole for pixels in batch.pixels]
    after = [_brightness(pixels) for batch in damaged for pixels in batch.pixels]
    for epoch in (0, 7):
        order = before[epoch : epoch + 7]
        for place in range(7):
            follows = (order[(place + k) % 7] for k in range(7))
            assert after[epoch + place] == next(value for value in follows if value not in (20, 50))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_one_line(data: InstanceLabels, workers: int) -> None:
    for path, _ in data.pairs:
        path.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        batches(data, workers=workers)
    assert "none of 7 images can be read; " in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_an_image_without_segments_is_a_sample(tmp_path: Path) -> None:
    data = InstanceLabels(write_instance_labels(tmp_path, count=1), "train", ("cell",))
    data.pairs[0][1].write_bytes(_png(np.zeros((24, 32), np.uint16)))
    batch = batches(data, range(1), 1)[0]
    assert batch.targets[0]["labels"].shape == (0,)
    assert batch.targets[0]["masks"].shape == (0, 32, 32)


def test_the_cache_keeps_what_its_budget_holds_and_no_more(data: InstanceLabels) -> None:
    size = 24 * 32 * (3 + 4)
    cached = Cached(data, 2 * size + size // 2)
    first = [cached[index] for index in range(7)]
    for path, _ in data.pairs:
        path.write_bytes(b"")
    for index in (0, 1):
        assert cached[index][0] is first[index][0]
        assert cached.image(index) is first[index][0]
        assert cached.annotation(index) is first[index][1]
    with pytest.raises(InputError, match=r"002\.png: expected an image, got 0 bytes"):
        cached[2]
    assert (len(cached), cached.name(3), cached.labels) == (7, "003.png", data.labels)


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()


def _brightness(pixels: torch.Tensor) -> int:
    return round(float(pixels[0, 0, 0]) * 127.5 + 127.5)


def test_workers_leave_the_parents_garbage_alone(data: InstanceLabels, tmp_path: Path) -> None:
    """An inference session in it would wait in a fork for the threads of its pool, which are not there."""

    class Owner:
        def __del__(self) -> None:
            (tmp_path / f"collected-by-{os.getpid()}").touch()

    owner = Owner()
    owner.itself = owner
    del owner
    gc.disable()  # until the workers start
    try:
        batches(data, workers=2)
    finally:
        gc.enable()
    assert [path.name for path in tmp_path.glob("collected-by-*")] == [f"collected-by-{os.getpid()}"]
