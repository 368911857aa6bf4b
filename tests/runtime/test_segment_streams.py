"""`python runtime/segment.py` on videos, lists and streams: every frame in order, what is written, how it ends."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime import rle, video_source
from mask2edge.runtime import segment as cli
from mask2edge.runtime.segment_entries import entries
from mask2edge.runtime.segmenter import Segmenter

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
FRAMES = 12
VideoCapture = cv2.VideoCapture  # some tests put a camera in its place


def frame_of(index: int) -> np.ndarray:
    """uint8 [64, 96, 3] BGR: blue, with a red bar as wide as 4 pixels a frame."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :] = (255, 0, 0)
    image[:, : 4 * (index % 20 + 2)] = (0, 0, 255)
    return image


def write_film(file: Path, frames: int = FRAMES) -> Path:
    """Lossless, 10 frames per second."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, (96, 64))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(frame_of(index))
    writer.release()
    return file


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "film.avi")


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo.png"
    cv2.imwrite(str(file), frame_of(3))
    return file


def run(capfd, *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def frames_in(file: Path) -> list[np.ndarray]:
    capture = VideoCapture(str(file))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return frames


def test_each_frame_is_a_line_in_order_with_its_masks(make_engine, film, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run(capfd, make_engine(), film, "--ndjson", "--task", "panoptic")
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert (code, stderr) == (0, "")
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert [line["image_id"] for line in lines] == list(range(1, FRAMES + 1))
    for line in lines:
        assert (line["source"], line["seconds"], line["height"]) == (str(film), line["frame"] / 10, 64)
        red = next(segment for segment in line["segments"] if segment["label"] == "ball")
        mask = rle.decode(rle.from_string(red["rle"]["counts"]), tuple(red["rle"]["size"]))
        assert abs(mask.sum() / 64 - 4 * (line["frame"] + 2)) <= 2
    assert not (tmp_path / "artifacts").exists()


def test_a_film_s_files_and_its_video(make_engine, film, capfd, tmp_path):
    out, video = tmp_path / "out", tmp_path / "new" / "overlay.avi"
    code, stdout, _ = run(capfd, make_engine(), film, "--out", out, "--video", video, "--every", 4)
    assert code == 0
    assert sorted(file.name for file in (out / "panoptic").iterdir()) == [
        "film-000000.png", "film-000004.png", "film-000008.png",
    ]  # fmt: skip
    index = json.loads((out / "panoptic.json").read_text())
    assert [(image["id"], image["frame"]) for image in index["images"]] == [(1, 0), (2, 4), (3, 8)]
    assert [annotation["image_id"] for annotation in index["annotations"]] == [1, 2, 3]
    assert f"wrote {video}" in stdout
    assert "overlays/film-000004.jpg" in stdout
    assert len(frames_in(video)) == 3
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FPS) == pytest.approx(2.5)
    assert [file.name for file in video.parent.iterdir()] == ["overlay.avi"]


def test_frames_left_out_keep_their_time_in_the_video(make_engine, film, capfd, tmp_path):
    video = tmp_path / "overlay.mp4"
    assert run(capfd, make_engine(), film, "--video", video, "--max-fps", 2.5)[0] == 0
    assert len(frames_in(video)) == 9  # frames 0, 4 and 8 of 12, for four frames' time each but the last


def test_json_of_a_film(make_engine, film, photo, capfd, tmp_path):
    code, stdout, _ = run(capfd, make_engine(), photo, film, "--json", "--out", tmp_path / "out")
    report = json.loads(stdout)
    assert code == 0
    assert [image.get("frame") for image in report["images"]] == [None, *range(FRAMES)]
    assert [image["image_id"] for image in report["images"]] == list(range(1, FRAMES + 2))
    assert report["images"][1]["map"].endswith("panoptic/film-000000.png")


def test_tracks_keep_their_ids(make_engine, film, capfd):
    _, stdout, _ = run(capfd, make_engine(), film, "--ndjson", "--track")
    found = {
        (segment["id"], segment["label"]) for line in stdout.splitlines() for segment in json.loads(line)["segments"]
    }
    assert found == {(1, "ball"), (2, "sky")}


def write_flicker(file: Path) -> Path:
    """Eight frames that are alike, but for the fifth, in which the bar is away."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, (96, 64))
    for index in range(8):
        writer.write(frame_of(5) if index != 4 else np.full((64, 96, 3), (255, 0, 0), np.uint8))
    writer.release()
    return file


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_what_fails_for_one_frame_is_smoothed(make_engine, capfd, tmp_path, task):
    engine, film = make_engine(), write_flicker(tmp_path / "film.avi")
    found = {}
    for options in ((), ("--smooth",)):
        code, stdout, _ = run(capfd, engine, film, "--ndjson", "--task", task, *options)
        lines = [json.loads(line)["segments"] for line in stdout.splitlines()]
        assert (code, len(lines)) == (0, 8)
        found[options] = [{one["label"]: (one["id"], one["area"], one["box"]) for one in line} for line in lines]
    plain, smooth = found.values()
    assert ["ball" in line for line in plain] == [index != 4 for index in range(8)]
    assert smooth == [plain[0]] * 8


def test_a_list_on_stdin(make_engine, film, photo, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photo}\n\n{film}\r\n"))
    code, stdout, _ = run(capfd, make_engine(), "-", "--ndjson", "--every", 6)
    assert code == 0
    assert [json.loads(line)["source"] for line in stdout.splitlines()] == [str(photo), str(film), str(film)]


@pytest.mark.parametrize("name", ["*.avi", "."])
def test_a_glob_or_folder_of_films(make_engine, film, capfd, tmp_path, name):
    code, stdout, _ = run(capfd, make_engine(), tmp_path / name, "--ndjson")
    assert (code, len(stdout.splitlines())) == (0, FRAMES)


def test_a_video_is_not_written_over_its_source(make_engine, film, photo, capfd, monkeypatch):
    monkeypatch.chdir(film.parent)
    before = film.read_bytes()
    code, stdout, stderr = run(capfd, make_engine(), photo, film, "--video", "film.avi")
    assert (code, stdout) == (2, "")
    assert stderr == "error: --video: expected another file than the sources, got film.avi; choose another name\n"
    assert film.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_that_are_not_utf_8(make_engine, film, photo, tmp_path):
    """OpenCV crashes on such a name: nothing of ours may hand it one."""
    odd = [os.fsencode(tmp_path) + name for name in (b"/caf\xe9.png", b"/caf\xe9.avi", b"/out\xe9")]
    for file, given in zip(odd, (photo, film), strict=False):
        Path(os.fsdecode(file)).write_bytes(given.read_bytes())
    picture, video, out = map(os.fsdecode, odd)
    engine = make_engine()
    process = start(engine, picture, "--out", out)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert "caf\\udce9.png  96x64" in stdout
    assert sorted(name.name for name in Path(out).rglob("*") if name.is_file()) == [
        os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"caf\xe9.png"), "panoptic.json",
    ]  # fmt: skip
    for arguments in ((video, "--ndjson"), (film, "--video", video), ("-", "--ndjson")):
        process = start(engine, *arguments, stdin=subprocess.PIPE)
        process.stdin.buffer.write(odd[1])
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout, stderr.count("\n")) == (2, "", 1)
        assert "expected the name of a video in UTF-8, which OpenCV wants; rename it" in stderr


def test_a_bad_file_in_the_middle_is_a_line_and_exit_2(make_engine, film, photo, capfd, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    code, stdout, stderr = run(capfd, make_engine(), photo, bad, film, "--ndjson", "--every", 11)
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert code == 2
    assert ["error" in line for line in lines] == [False, True, False, False]
    assert stderr.splitlines() == [f"error: {lines[1]['error']}", "1 of 4 pictures failed"]


class Camera:
    """cv2.VideoCapture of a camera that gives so many frames, then nothing, and cannot be opened again."""

    def __init__(self, frames: int) -> None:
        self.frames, self.index, self.opened = frames, 0, 0

    def __call__(self, *_: object) -> "Camera":
        self.opened += 1
        return self

    def isOpened(self) -> bool:
        return self.opened == 1

    def get(self, _):
        return 0.0

    def read(self):
        if self.index == self.frames:
            return False, None
        self.index += 1
        return True, frame_of(self.index - 1)

    def release(self) -> None:
        pass


def test_a_camera_without_drop_and_its_end(make_engine, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(video_source.cv2, "VideoCapture", Camera(30))
    code, stdout, stderr = run(
        capfd, make_engine(), "0", "--ndjson", "--no-drop", "--retries", 0, "--out", tmp_path / "out"
    )
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert code == 2
    assert [line["frame"] for line in lines] == list(range(31))
    assert "0: lost after 30 frames" in lines[-1]["error"]
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == 30
    assert f"wrote {tmp_path / 'out' / 'panoptic.json'}" in stderr


def test_a_camera_drops_what_the_network_has_no_time_for(make_engine, capfd, monkeypatch):
    monkeypatch.setattr(video_source.cv2, "VideoCapture", Camera(3000))
    code, stdout, _ = run(capfd, make_engine(), "0", "--ndjson", "--retries", 0)
    numbers = [json.loads(line)["frame"] for line in stdout.splitlines()]
    assert code == 2
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 1500
    assert numbers[-2:] == [2999, 3000]  # the newest frame, and the loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4242"], "4242: no such camera, or another program has it; name another index"),
        (["EMPTY"], "empty.avi: expected a video, got a file that OpenCV cannot open; is it damaged?"),
        (["NOFRAMES"], "got a file with no frame that OpenCV can decode"),
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["rtsp://127.0.0.1:9/none"], "rtsp://127.0.0.1:9/none: the stream cannot be opened; check the address"),
        (["videotestsrc ! appsink"], "videotestsrc ! appsink: "),
        (["-"], "-: expected a list of files on stdin, one a line, got none"),
        (["FILM", "--video", "FOLDER"], "--video: expected a file name ending in .mp4"),
        (["FILM", "--video", "empty.avi/a.mp4"], "--video: expected a folder to write empty.avi/a.mp4 into, got"),
        (["FILM", "--out", "empty.avi"], "--out: expected a folder or a name for one, got the file empty.avi"),
        (["FILM", "--video", "FOLDER.mp4"], "--video: expected the name of a file to write"),
        (["FILM", "--video", "a.mp4", "--codec", "QQQQ"], "--video a.mp4: OpenCV here cannot write 'QQQQ'"),
        (["FILM", "--video", "a.mp4", "--codec", "long1"], "--codec: expected four characters such as mp4v, got"),
        (["a" * 300], "aaa: no such file or folder"),
        ([f"http://127.0.0.1:9/a.mp4?{'a' * 300}"], "aaa: the stream cannot be opened; check the address"),
        (["/dev/null"], "/dev/null: no such camera, or another program has it"),
        (["FILM", "--task", "instance", "--smooth"], "--smooth: expected --task panoptic or semantic, got instance"),
        (["FILM", "--task", "semantic", "--track"], "--track: expected --task panoptic or instance, got semantic"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make_engine, film, tmp_path, capfd, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (tmp_path / "empty.avi").write_bytes(b"")
    write_film(tmp_path / "noframes.avi", 0)
    (tmp_path / "folder.mp4").mkdir()
    names = {
        "FILM": film, "EMPTY": "empty.avi", "NOFRAMES": "noframes.avi", "FOLDER": tmp_path,
        "FOLDER.mp4": tmp_path / "folder.mp4",
    }  # fmt: skip
    code, stdout, stderr = run(capfd, make_engine(), *[names.get(argument, argument) for argument in arguments])
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "artifacts").exists()
    assert not (tmp_path / "a.mp4").exists()


def test_json_is_refused_where_there_is_no_end(make_engine, capfd, monkeypatch):
    monkeypatch.setattr(video_source.cv2, "VideoCapture", Camera(3))
    code, stdout, stderr = run(capfd, make_engine(), "0", "--json")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "use --ndjson, a line for each frame" in stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "0"], "--every: expected a whole number from 1, got '0'"),
        (["--max-fps", "-1"], "--max-fps: expected a number above 0, got '-1'"),
        (["--retries", "x"], "--retries: expected a whole number from 0, got 'x'"),
        (["--json", "--ndjson"], "--ndjson: not allowed with argument --json"),
    ],
)
def test_options_that_cannot_be(capfd, options, message):
    with pytest.raises(SystemExit) as exit_of:
        cli.main(["an.engine", "film.mp4", *options])
    assert exit_of.value.code == 2
    assert message in capfd.readouterr().err


def start(engine: Path, *arguments: object, stdin: int | None = None) -> subprocess.Popen:
    command = [sys.executable, "runtime/segment.py", str(engine), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_leaves_whole_files(make_engine, tmp_path, number):
    film, video, out = write_film(tmp_path / "long.avi", 5000), tmp_path / "overlay.mp4", tmp_path / "out"
    process = start(make_engine(), film, "--ndjson", "--video", video, "--out", out)
    seen = [process.stdout.readline() for _ in range(3)]
    os.kill(process.pid, number)
    # not communicate(), which passes over what readline() has in its buffer
    lines = [json.loads(line) for line in [*seen, *process.stdout.read().splitlines()]]
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 128 + number
    assert 3 <= len(lines) < 5000
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert f"stopped after {len(lines)} pictures" in stderr
    assert "Traceback" not in stderr
    assert len(frames_in(video)) == len(lines)
    assert len(json.loads((out / "panoptic.json").read_text())["images"]) == len(lines)
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]


def test_a_reader_that_leaves_ends_the_run(make_engine, tmp_path):
    process = start(make_engine(), write_film(tmp_path / "long.avi", 3000), "--ndjson")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


class MotionJpeg(BaseHTTPRequestHandler):
    """A camera that speaks HTTP: ten frames, then the connection ends."""

    connections = 0

    def do_GET(self) -> None:
        type(self).connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for index in range(10):
                data = cv2.imencode(".jpg", frame_of(index))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                self.wfile.write(head + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


def test_a_real_stream_over_http_that_ends_and_comes_back(make_engine, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            address = f"http://user:secret@127.0.0.1:{server.server_port}/live"
            process = start(make_engine(), address, "--ndjson", "--no-drop")
            lines = [json.loads(process.stdout.readline()) for _ in range(15)]
            os.kill(process.pid, signal.SIGTERM)
            _, stderr = process.communicate(timeout=60)
        finally:
            server.shutdown()
    assert process.returncode == 128 + signal.SIGTERM
    assert [line["frame"] for line in lines] == list(range(15))
    assert f"http://127.0.0.1:{server.server_port}/live: no frame; attempt 1 of 5 to open it again in 1 s" in stderr
    assert "secret" not in stderr + json.dumps(lines)
    assert MotionJpeg.connections >= 2


def memory(process: int | str = "self") -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_two_thousand_frames_none_lost_in_order_in_constant_memory(make_engine, monkeypatch, tmp_path):
    """All outputs of a stream at once; its content says which frame it is."""
    monkeypatch.setattr(video_source.cv2, "VideoCapture", Camera(2000))
    read, write = os.pipe()
    held, numbers, widths = [], [], []

    def consume() -> None:
        with os.fdopen(read) as lines:
            for line in lines:
                frame = json.loads(line)
                numbers.append(frame["frame"])
                if "error" not in frame:
                    widths.append(max(s["box"][2] - s["box"][0] for s in frame["segments"] if s["label"] == "ball"))
                if frame["frame"] % 100 == 0:
                    held.append(memory())

    reader = threading.Thread(target=consume)
    reader.start()
    with os.fdopen(write, "w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        arguments = ["--ndjson", "--no-drop", "--track", "--retries", "0", "--threads", "1"]
        files = ["--video", str(tmp_path / "overlay.avi"), "--out", str(tmp_path / "out")]
        code = cli.main([str(make_engine()), "0", *arguments, *files])
    reader.join()
    assert code == 2  # the camera's end
    assert numbers == list(range(2001))
    assert all(abs(width - 4 * (index % 20 + 2)) <= 2 for index, width in enumerate(widths))
    assert len(frames_in(tmp_path / "overlay.avi")) == 2000
    growth = held[-1] - held[3]
    print(f"memory after 300 frames {held[3]:.1f} MB, after 2,000 {held[-1]:.1f} MB")
    assert growth < 5, f"{growth:.1f} MB more after 2,000 frames than after 300: {[round(mb) for mb in held]}"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_two_thousand_frames_through_the_shipped_model(tmp_path):
    """A window that moves over a photograph: each frame's segments are those of its own picture, run alone."""
    pytest.importorskip("torch")
    from mask2edge.benchmarks.demo import sample_photograph
    from mask2edge.benchmarks.own_engine import fresh_engine

    engine = fresh_engine(ROOT / "models" / "street-lite.safetensors", tmp_path / "street-lite.engine")
    photo = cv2.imread(str(sample_photograph()))
    pictures = [np.ascontiguousarray(photo[8 * index :, 16 * index :][:240, :320]) for index in range(20)]
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"FFV1"), 30.0, (320, 240))  # lossless
    shown = [(7 * index + index // 20) % 20 for index in range(2000)]  # neighbours differ
    for index in shown:
        writer.write(pictures[index])
    writer.release()
    segmenter = Segmenter.load(engine, threads=2)
    expected = [entries(segmenter(picture, "semantic")) for picture in pictures]
    assert len({json.dumps(one) for one in expected}) == 20
    process = start(engine, film, "--ndjson", "--no-drop", "--task", "semantic", "--threads", "2")
    held = []
    for index, picture in enumerate(shown):
        line = json.loads(process.stdout.readline())
        assert line["frame"] == index
        assert line["segments"] == expected[picture]
        if index % 100 == 0:
            held.append(memory(process.pid))
    assert process.stdout.read() == ""
    assert process.wait(timeout=60) == 0
    print(f"memory after 300 frames {held[3]:.1f} MB, at the end {held[-1]:.1f} MB")
    assert held[-1] - held[3] < 5, f"resident MB every 100 frames: {[round(mb) for mb in held]}"
