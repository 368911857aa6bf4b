"""`python runtime/batch.py`: what is in the shards, what a second run does again, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segment_entries import entries

pytest.importorskip("onnxruntime")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'mask2edge[batch]'")
pytest.importorskip("ray.data", reason="pip install 'mask2edge[batch]'")

from mask2edge.runtime import batch as cli  # noqa: E402
from mask2edge.runtime.batch_shards import (  # noqa: E402
    ShardPlan,
    ShardWorker,
    failures,
    images_within,
    is_whole,
    shard_file,
)

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {"engine_sha256": "0", "task": "panoptic"}


@pytest.fixture
def photos(tmp_path, picture):
    """Nine images, one of them none; two share a stem, one lies deeper."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), np.roll(picture, 4 * index, axis=1))
    cv2.imwrite(str(folder / "0.jpg"), picture)
    cv2.imwrite(str(folder / "deep" / "er" / "0.png"), cv2.resize(picture, (150, 100)))
    cv2.imwrite(str(folder / ".hidden" / "1.png"), picture)
    (folder / "2.bmp").write_text("no image")
    (folder / "notes.txt").write_text("nothing")
    return folder


IMAGES = ["0.jpg", "0.png", "1.png", "2.bmp", "2.png", "3.png", "4.png", "5.png", "deep/er/0.png"]


def made(engine, photos, out, plan, names=None, **options):
    worker = ShardWorker(engine, out, photos, "panoptic", threads=1, **options)
    return [worker(name, plan.shards[name]) for name in names or plan.shards]


def rows(out):
    return pq.read_table(out / "shards").to_pylist()


def command(*words):
    script = ROOT / "runtime" / "batch.py"
    return [sys.executable, str(script), *map(str, words)]


def test_images_of_a_folder_and_below(photos):
    assert images_within(photos) == IMAGES


def test_a_row_an_image(make_engine, photos, tmp_path):
    engine, out = make_engine(), tmp_path / "out"
    plan = ShardPlan.load_or_make(out, photos, ABOUT, 4)
    assert [len(images) for images in plan.shards.values()] == [4, 4, 1]
    reports = made(engine, photos, out, plan, maps=True)
    assert [(one["images"], one["failed"]) for one in reports] == [(4, 1), (4, 0), (1, 0)]
    found = rows(out)
    assert [row["image"] for row in found] == IMAGES
    with Segmenter.load(engine, threads=1) as segmenter:
        for row in found:
            if row["image"] == "2.bmp":
                assert "expected an image" in row["error"]
                assert (row["segments"], row["width"]) == (None, None)
                continue
            result = segmenter(read_image(photos / row["image"]), "panoptic")
            assert row["error"] is None
            assert (row["height"], row["width"]) == result.size
            assert row["segments"] == entries(result)
            stored = cv2.imread(str(out / "maps" / f"{row['image']}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(stored, result.label_map)
    coco = pytest.importorskip("pycocotools.mask")
    segment = found[0]["segments"][0]
    assert coco.area(segment["rle"]) == segment["area"]


def test_what_is_done_again(make_engine, photos, tmp_path, picture):
    """A missing shard, one that was cut off, and on request the one with a failure; new images get new shards."""
    engine, out = make_engine(), tmp_path / "out"
    plan = ShardPlan.load_or_make(out, photos, ABOUT, 3)
    names = list(plan.shards)
    assert plan.unfinished(out) == names
    made(engine, photos, out, plan)
    assert plan.unfinished(out) == []
    failing = next(name for name in names if "2.bmp" in plan.shards[name])
    assert [one["image"] for one in failures(out, failing)] == ["2.bmp"]
    assert plan.unfinished(out, retry_failed=True) == [failing]
    file = shard_file(out, names[-1])
    file.write_bytes(file.read_bytes()[:-20])
    assert plan.unfinished(out) == [names[-1]]
    file.unlink()
    cv2.imwrite(str(photos / "00.png"), picture)  # before all others by name
    again = ShardPlan.load_or_make(out, photos, ABOUT, 100)
    assert {name: again.shards[name] for name in names} == plan.shards
    assert again.unfinished(out) == [names[-1], f"shard-{len(names):06d}"]
    made(engine, photos, out, again, again.unfinished(out))
    assert Counter(row["image"] for row in rows(out)) == Counter([*IMAGES, "00.png"])
    cv2.imwrite(str(photos / "2.bmp"), picture)
    made(engine, photos, out, again, again.unfinished(out, retry_failed=True))
    assert not [row for row in rows(out) if row["error"]]
    assert Counter(row["image"] for row in rows(out)) == Counter([*IMAGES, "00.png"])


def test_an_image_that_is_gone_is_a_failure(make_engine, photos, tmp_path):
    engine, out = make_engine(), tmp_path / "out"
    plan = ShardPlan.load_or_make(out, photos, ABOUT, 100)
    (photos / "3.png").unlink()
    made(engine, photos, out, plan)
    assert [one["image"] for one in failures(out, "shard-000000")] == ["2.bmp", "3.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_that_are_not_utf_8(make_engine, tmp_path, picture):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    (photos / os.fsdecode(b"none\xe9.png")).write_bytes(b"")
    ShardPlan.load_or_make(out, photos, ABOUT, 100)
    made(make_engine(), photos, out, ShardPlan.load_or_make(out, photos, ABOUT, 100), maps=True)
    good, bad = rows(out)
    assert (good["image"], good["error"], len(good["segments"])) == ("caf\\udce9.png", None, 3)
    assert (out / "maps" / os.fsdecode(b"caf\xe9.png.png")).is_file()
    assert bad["image"] == "none\\udce9.png"
    assert "none\\udce9.png: expected an image" in bad["error"]


def test_results_of_another_engine_or_task_are_not_mixed(photos, tmp_path):
    ShardPlan.load_or_make(tmp_path / "out", photos, ABOUT, 4)
    for name in ABOUT:
        with pytest.raises(InputError, match=f"holds results of another run \\({name} .*choose another --out"):
            ShardPlan.load_or_make(tmp_path / "out", photos, {**ABOUT, name: "other"}, 4)


def test_whole_is_a_file_with_all_rows(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    assert not is_whole(tmp_path / "text.parquet", 1)
    assert not is_whole(tmp_path / "none.parquet", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{none}", "{photos}"], "expected an engine folder with spec.json"),
        (["{changed}", "{photos}"], "sha256 differs"),
        (["{engine}", "{none}"], "expected a folder of images, got no such folder"),
        (["{engine}", "{file}"], "expected a folder of images, got a file"),
        (["{engine}", "{empty}"], "expected images (jpg, jpeg"),
        (["{engine}", "{photos}", "--out", "{file}"], "--out: expected a folder, got a file"),
        (["{engine}", "{photos}", "--out", "{file}/below"], "cannot be made (Not a directory)"),
        (["{engine}", "{photos}", "--out", "{damaged}"], "got damaged JSON; remove it"),
        (["{semantic}", "{photos}", "--task", "instance"], "task instance: toy was made for semantic"),
        (["{engine}", "{photos}", "--address", "127.0.0.1:1"], "--address: expected a Ray cluster at 127.0.0.1:1, got"),
        (["{engine}", "{photos}", "--address", "somewhere"], "--address: expected auto, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_bad_input(make_engine, toy_spec, photos, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "shards.json").write_text("{")

    def changed():
        folder = make_engine()
        (folder / "model.onnx").write_bytes(b"other")
        return folder

    made = {
        "{none}": lambda: tmp_path / "none",
        "{changed}": changed,
        "{engine}": make_engine,
        "{semantic}": lambda: make_engine(model=toy_spec(("semantic",))),
        "{photos}": lambda: photos,
    }
    said = [str(made[word]()) if word in made else word.replace("{", f"{tmp_path}/").replace("}", "") for word in words]
    assert cli.main(said if "--out" in said else [*said, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out" / "shards").exists()


def test_numbers_that_are_none(capsys):
    for words in (["--workers", "0"], ["--shard-size", "x"], ["--threads", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["engine", "folder", "--out", "out", *words])
        assert stopped.value.code == 2
        assert "expected a whole number" in capsys.readouterr().err


def test_more_workers_than_a_cluster_has():
    with pytest.raises(InputError, match="--workers 3: expected 3 CPUs in the cluster, got 2; use fewer"):
        cli._require_resources({"CPU": 2.0}, 3, 0)
    with pytest.raises(InputError, match="--workers 1: expected 1 GPUs in the cluster, got 0"):
        cli._require_resources({"CPU": 2.0}, 1, 1)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(make_engine, tmp_path, picture):
    """kill -9 in the middle, then the same command: each image is there exactly once, finished shards as they were."""
    engine, photos, out = make_engine(), tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    data = cv2.imencode(".png", cv2.resize(picture, (960, 640)))[1].tobytes()
    names = [f"{index:04d}.png" for index in range(600)]
    for name in names:
        (photos / name).write_bytes(data)
    (photos / "bad.jpg").write_text("no image")
    words = command(engine, photos, "--out", out, "--workers", "2", "--shard-size", "3", "--json")
    shards = out / "shards"

    def finished():
        return {file.name: file.stat().st_mtime_ns for file in shards.glob("shard-*.parquet")}

    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 300
        while len(finished()) < 5:
            assert first.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.005)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    before = finished()
    assert 5 <= len(before) < 201
    second = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert second.returncode == 2, second.stderr
    report = json.loads(second.stdout)
    assert [one["image"] for one in report["failed"]] == ["bad.jpg"]
    assert report["images"] == 601
    assert report["done_before"] >= 15 - 2
    assert report["images_per_second"] > 0
    assert Counter(row["image"] for row in rows(out)) == Counter([*names, "bad.jpg"])
    after = finished()
    assert len(after) == 201
    third = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert json.loads(third.stdout)["done_before"] == 601
    assert finished() == after


def test_over_ray(make_engine, photos, tmp_path):
    out = tmp_path / "out"
    words = command(make_engine(), photos, "--out", out, "--workers", "1", "--shard-size", "4", "--json")
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2, done.stderr
    report = json.loads(done.stdout)
    assert (report["images"], report["done_before"], report["workers"]) == (9, 0, 1)
    assert [one["image"] for one in report["failed"]] == ["2.bmp"]
    assert Counter(row["image"] for row in rows(out)) == Counter(IMAGES)
    assert "1 of 9 images failed; --retry-failed tries them again" in done.stderr
