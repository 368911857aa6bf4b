"""The HTTP server: right answers for good requests, a status and one line for bad ones, and an end that is clean."""

import base64
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from serving import encoded, running, until, write_video

from mask2edge.benchmarks.bad_requests import png_of_size
from mask2edge.runtime import rle
from mask2edge.runtime import serve as cli
from mask2edge.runtime.answer import answer as real_answer
from mask2edge.runtime.live_source import NewestFrame
from mask2edge.runtime.segmenter import Segmenter

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def segmenter(make_engine):
    with Segmenter.load(make_engine(), threads=1) as loaded:
        yield loaded


class Slow:
    """A segmenter whose work waits until it is let go."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self.go, self.begun = segmenter, threading.Event(), 0

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def with_thresholds(self, *_):
        return self

    def timed(self, image, task):
        self.begun += 1
        assert self.go.wait(60)
        return self._segmenter.timed(image, task)


def check_same(answer: dict, result) -> None:
    """An answer of the server is what the Segmenter itself gives."""
    assert (answer["task"], answer["height"], answer["width"]) == (result.task, *result.size)
    assert len(answer["segments"]) == len(result.segments)
    for got, segment in zip(answer["segments"], result.segments, strict=True):
        assert (got["id"], got["label"], got["label_id"]) == (segment.id, segment.label, segment.label_id)
        assert (got["area"], tuple(got["box"]), got["is_thing"]) == (segment.area, segment.box, segment.is_thing)
        assert got["score"] == pytest.approx(segment.score, abs=1e-5)
        assert got["rle"] == segment.rle
        mask = rle.decode(rle.from_string(got["rle"]["counts"]), tuple(got["rle"]["size"]))
        np.testing.assert_array_equal(mask, segment.mask)


@pytest.mark.parametrize("task", [None, "panoptic", "instance", "semantic"])
def test_a_good_request_has_the_segmenters_own_result(segmenter, picture, task):
    larger = cv2.resize(picture, (150, 100), interpolation=cv2.INTER_NEAREST)
    with running(segmenter) as server:
        for image, suffix in ((picture, ".png"), (larger, ".bmp"), (larger, ".webp"), (picture, ".jpg")):
            data = encoded(image, suffix)
            answer = server.client.post("/segment", content=data, params={"task": task} if task else {})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            check_same(answer.json(), segmenter(decoded, task))
            steps = {"queue_ms", "decode_ms", "preprocess_ms", "network_ms", "postprocess_ms", "encode_ms"}
            assert set(answer.json()["times"]) == steps


def test_thresholds_and_scores_are_each_requests_own(segmenter, make_engine, picture):
    data = encoded(picture)
    with running(segmenter) as server:

        def labels(**query):
            return [
                one["label"] for one in server.client.post("/segment", content=data, params=query).json()["segments"]
            ]

        everything = labels(task="panoptic")
        assert everything == ["ball", "sky", "snow"]
        assert labels(task="panoptic", object_threshold=1) == []
        assert labels(task="panoptic") == everything
        own = Segmenter.load(make_engine(name="other"), object_threshold=0.1, overlap_threshold=0.1)
        query = {"object_threshold": 0.1, "overlap_threshold": 0.1}
        check_same(server.client.post("/segment", content=data, params=query).json(), own(picture))
        scores = [segment.score for segment in segmenter(picture, "instance").segments]
        kept = server.client.post("/segment", content=data, params={"task": "instance", "min_score": 0.5}).json()
        assert len(kept["segments"]) == sum(score >= 0.5 for score in scores) < len(scores)


def test_the_overlay_is_the_results_own_picture(segmenter, picture):
    with running(segmenter) as server:
        answer = server.client.post("/segment", content=encoded(picture), params={"overlay": True}).json()
    overlay = cv2.imdecode(np.frombuffer(base64.b64decode(answer["overlay"]), np.uint8), cv2.IMREAD_COLOR)
    drawn = segmenter(picture).draw(picture)
    assert overlay.shape == drawn.shape
    assert np.abs(overlay.astype(int) - drawn).mean() < 8  # a JPEG of sharp edges


BAD = [  # content, query, status, reason
    (b"", {}, 400, "expected a JPEG, PNG, WebP or BMP image, got nothing"),
    (b"no picture at all", {}, 415, "got a text file"),
    (b"\x00\x01\x02\xff" * 50, {}, 415, "got a damaged image or a file of another kind"),
    (b"%PDF-1.7 \xff\xfe", {}, 415, "file of another kind"),
    ("cut png", {}, 422, "expected a whole PNG image, got one that is cut off"),
    ("cut jpeg", {}, 422, "expected a whole JPEG image, got one that is cut off"),
    (b"\x89PNG\r\n\x1a\n", {}, 422, "expected a whole PNG image, got one that is cut off or damaged"),
    (b"\xff\xd8\xff", {}, 422, "expected a whole JPEG image"),
    (b"BM", {}, 422, "expected a whole BMP image"),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", {}, 422, "expected a whole WEBP image"),
    (png_of_size(8, 8)[:-16] + b"IEND", {}, 422, "damaged"),
    (png_of_size(30_000, 30_000), {}, 413, "expected at most 1000000 pixels, got 30000x30000"),
    (png_of_size(0, 100), {}, 422, "damaged"),
    (bytes(200_001), {}, 413, "expected at most 200000 bytes"),
    ("scans", {}, 422, "expected a JPEG of at most 100 scans"),
    ("good", {"task": "depth"}, 400, "expected one of panoptic, instance, semantic, got 'depth'"),
    ("good", {"object_threshold": "2"}, 400, "object_threshold: input should be less than or equal to 1, got '2'"),
    ("good", {"overlap_threshold": "nan"}, 400, "overlap_threshold: input should be a finite number"),
    ("good", {"min_score": "much"}, 400, "min_score: input should be a valid number"),
    ("good", {"overlay": "perhaps"}, 400, "overlay: input should be a valid boolean"),
    ("good", {"thresold": "0.5"}, 400, "query: expected none of this name, got 'thresold'"),
    ("good", {"path": "/etc/passwd"}, 400, "query: expected none of this name, got 'path'"),
]  # fmt: skip


@pytest.fixture
def bodies(picture):
    jpeg = encoded(picture, ".jpg")
    scan = jpeg.index(b"\xff\xda")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return {
        "good": encoded(picture),
        "cut png": encoded(noise)[:-30],
        "cut jpeg": encoded(noise, ".jpg")[:1000],
        "scans": jpeg[:scan] + b"\xff\xda\x00\x02" * 200 + jpeg[scan:],
    }


def check_refused(answer: httpx.Response, status: int, reason: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert reason in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_bad_requests_have_a_status_and_a_reason_and_good_ones_go_on(segmenter, bodies):
    with running(segmenter, pixels=1_000_000, bytes=200_000) as server:
        for content, query, status, reason in BAD:
            data = bodies[content] if isinstance(content, str) else content
            check_refused(server.client.post("/segment", content=data, params=query), status, reason)
            chunked = server.client.post("/segment", content=iter([data]), params=query)  # no Content-Length
            check_refused(chunked, status, reason)
        packed = server.client.post("/segment", content=bodies["good"], headers={"Content-Encoding": "gzip"})
        check_refused(packed, 415, "got a Content-Encoding")
        check_refused(server.client.get("/segment"), 405, "GET /segment: method not allowed")
        check_refused(server.client.get("/../../etc/passwd"), 404, "not found")
        check_refused(server.client.get("/page/%2e%2e/serve.py"), 404, "not found")
        check_refused(server.client.get("/live"), 404, "start it with --source")
        check_refused(server.client.get("/healthz", headers={"Host": "elsewhere.example"}), 421, "--allow-host NAME")
        assert server.client.post("/segment", content=bodies["good"]).status_code == 200


def test_damaged_files_are_never_the_servers_failure(segmenter):
    chance = np.random.default_rng(0)
    picture = cv2.resize(chance.integers(0, 256, (6, 9, 3), np.uint8), (90, 60))
    with running(segmenter, pixels=100_000) as server:
        statuses = set()
        for suffix in (".png", ".jpg", ".webp", ".bmp"):
            whole = np.frombuffer(encoded(picture, suffix), np.uint8)
            for _ in range(25):
                data = whole.copy()
                places = chance.integers(0, min(len(data), chance.choice([40, len(data)])), 3)
                data[places] = chance.integers(0, 256, 3)
                answer = server.client.post("/segment", content=data.tobytes()[: chance.integers(20, 2 * len(data))])
                statuses.add(answer.status_code)
                if answer.status_code != 200:
                    assert set(answer.json()) == {"error"}
        assert statuses <= {200, 413, 415, 422}
        assert 422 in statuses


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1)])
def test_extreme_shapes_are_images_too(segmenter, size):
    data = encoded(np.full((*size, 3), (0, 0, 255), np.uint8))
    with running(segmenter) as server:
        answer = server.client.post("/segment", content=data, params={"task": "semantic"}).json()
        assert (answer["height"], answer["width"]) == size
        assert [one["label"] for one in answer["segments"]] == ["ball"]
        overlay = server.client.post("/segment", content=data, params={"overlay": True})
        if max(size) > 65_500:
            check_refused(overlay, 422, "expected at most 65500 pixels a side for a JPEG")
        else:
            assert overlay.status_code == 200


def test_a_model_is_not_asked_for_what_it_cannot_do(make_engine, toy_spec, picture):
    engine = make_engine(model=toy_spec(("semantic",), things=False))
    with running(Segmenter.load(engine)) as server:
        answer = server.client.post("/segment", content=encoded(picture), params={"task": "panoptic"})
        check_refused(answer, 400, "does not say which of its classes are things")
        assert server.client.get("/info").json()["tasks"] == ["semantic"]


def test_an_engine_that_fails_is_a_500_without_its_paths(segmenter, picture, monkeypatch, capsys):
    monkeypatch.setattr(segmenter.session, "run", lambda _: (_ for _ in ()).throw(cli.InputError("/secret: failed")))
    with running(segmenter) as server:
        answer = server.client.post("/segment", content=encoded(picture))
        check_refused(answer, 500, "the engine failed on this image")
        monkeypatch.undo()
        assert server.client.post("/segment", content=encoded(picture)).status_code == 200
    assert "/secret" not in answer.text
    assert "/secret: failed" in capsys.readouterr().err


def test_the_token_is_asked_for(segmenter, picture):
    data = encoded(picture)
    with running(segmenter, token="s3cret") as server:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            for path in ("/info", "/metrics", "/live", "/openapi.json"):
                check_refused(server.client.get(path, headers=header), 401, "Authorization: Bearer TOKEN")
            refused = server.client.post("/segment", content=data, headers=header)
            check_refused(refused, 401, "token: expected the header")
            assert refused.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer s3cret"}
        assert server.client.post("/segment", content=data, headers=right).status_code == 200
        assert server.client.get("/", headers={}).status_code == 200  # the page asks for it
        assert server.client.get("/healthz").json() == {"status": "ok", "source": None}


def talk(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """What a client gets that sends these parts with pauses, and then waits."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


HEAD = b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ((HEAD, b"x"), b"408", b"body: expected all of it within 0.3 s"),
        ((HEAD[:30],), b"408", b"request: expected its head within 0.3 s"),
        ((), b"408", b"request: expected its head"),
        ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /he"), b"408", b"request: expected its head"),
        ((b"\x16\x03\x01 this is TLS\r\n\r\n",), b"400", b"expected an HTTP/1.1 request"),
        ((b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n",), b"400", b"expected an HTTP/1.1 request"),
        ((b"GET /healthz HTTP/1.1\r\n\r\n",), b"400", b"expected an HTTP/1.1 request"),
    ],
)  # fmt: skip
def test_slow_senders_and_other_protocols_are_shown_out(segmenter, parts, status, reason):
    with running(segmenter, head_seconds=0.3, body_seconds=0.3) as server:
        answer = talk(server.port, *parts, pause=0.1)
        assert b"HTTP/1.1 " + status in answer
        assert reason in answer
        assert server.client.get("/healthz").status_code == 200


def test_a_line_that_is_full_answers_503_at_once(segmenter, picture):
    slow, data = Slow(segmenter), encoded(picture)
    with running(slow, waiting=2) as server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        held = [pool.submit(server.client.post, "/segment", content=data) for _ in range(3)]
        until(lambda: "mask2edge_queue_length 3.0" in server.client.get("/metrics").text)
        refused = server.client.post("/segment", content=data)
        check_refused(refused, 503, "busy: 3 images are at work or in line")
        assert int(refused.headers["retry-after"]) >= 1
        slow.go.set()
        assert [future.result().status_code for future in held] == [200, 200, 200]
        assert server.client.post("/segment", content=data).status_code == 200


def test_bodies_have_a_budget_together(segmenter, picture):
    data = encoded(picture, ".bmp")  # about 18 kB
    with (
        running(Slow(segmenter), bytes=len(data), waiting=20) as server,
        concurrent.futures.ThreadPoolExecutor(5) as pool,
    ):
        held = [pool.submit(server.client.post, "/segment", content=data) for _ in range(4)]
        until(lambda: f"mask2edge_body_bytes {4.0 * len(data)}" in server.client.get("/metrics").text)
        check_refused(server.client.post("/segment", content=data), 503, "the bodies of other requests")
        server.service.segmenter.go.set()
        assert [future.result().status_code for future in held] == [200] * 4
        assert "mask2edge_body_bytes 0.0" in server.client.get("/metrics").text


def test_a_request_has_a_deadline_and_its_place_is_kept_while_the_engine_works(segmenter, picture):
    slow, data = Slow(segmenter), encoded(picture)
    with running(slow, seconds=0.3, waiting=0) as server:
        check_refused(server.client.post("/segment", content=data), 503, "busy: no answer within 0.3 s")
        check_refused(server.client.post("/segment", content=data), 503, "1 images are at work")
        slow.go.set()
        until(lambda: server.client.post("/segment", content=data).status_code == 200)


def test_work_whose_caller_hung_up_is_dropped(segmenter, picture):
    slow, data = Slow(segmenter), encoded(picture)
    with running(slow, waiting=5) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.client.post, "/segment", content=data)
        until(lambda: slow.begun == 1)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/segment", content=data, timeout=0.3)
        until(lambda: "mask2edge_queue_length 1.0" in server.client.get("/metrics").text)
        slow.go.set()
        assert first.result().status_code == 200
        assert server.client.post("/segment", content=data).status_code == 200
    assert slow.begun == 2


def test_connections_have_a_bound(segmenter):
    with running(segmenter, connections=3) as server:
        server.client.close()
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        time.sleep(0.2)
        assert b"503 Service Unavailable" in talk(server.port)
        for one in idle:
            one.close()
        until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)


def test_a_caller_that_does_not_read_its_answer_is_dropped(segmenter, picture, monkeypatch):
    class Still:
        newest, state = (1, picture), "live"

    monkeypatch.setattr(
        "mask2edge.runtime.answer.jpeg_base64", lambda _: "x" * (32 << 20)
    )  # no socket's buffers hold it
    with running(segmenter, source=Still(), connections=1, seconds=3) as server:
        server.client.close()
        with socket.create_connection(("127.0.0.1", server.port)) as idle:
            idle.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(1)
            assert httpx.get(f"{server.url}/healthz").status_code == 503
            until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)


def test_metrics_count_what_happened(segmenter, picture):
    parser = pytest.importorskip("prometheus_client.parser")
    with running(segmenter) as server:
        for _ in range(3):
            server.client.post("/segment", content=encoded(picture))
        server.client.post("/segment", content=b"")
        server.client.get("/nowhere/1")
        answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["mask2edge_requests_total", "/segment", "200"] == 3
    assert samples["mask2edge_requests_total", "/segment", "400"] == 1
    assert samples["mask2edge_requests_total", "404", "other"] == 1
    assert samples["mask2edge_request_seconds_count", "/segment"] == 4
    for step in ("queue", "decode", "preprocess", "network", "postprocess", "encode"):
        assert samples["mask2edge_step_seconds_count", step] == 3
    assert samples[("mask2edge_queue_length",)] == 0


def test_the_page_is_whole_and_its_policy_strict(segmenter):
    with running(segmenter) as server:
        page = server.client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        for name in ("page.css", "page.js"):
            assert name in page.text
        from mask2edge.runtime.http_app import page_files

        for path, (content, kind) in page_files().items():
            got = server.client.get(path)
            assert (got.status_code, got.content, got.headers["content-type"]) == (200, content, kind)
            text = content.decode()
            assert "https://" not in text  # nothing from elsewhere
            assert "style=" not in text  # the policy would drop it
        info = server.client.get("/info").json()
        assert (info["engine"], info["default_task"], info["source"]) == ("toy", "panoptic", None)
        assert [label["name"] for label in info["labels"]] == ["ball", "leaf", "sky", "snow"]


def test_the_live_view_gives_the_newest_frame_and_its_segments(segmenter, picture, tmp_path):
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    video = write_video(tmp_path / "clip.avi", [picture, mirrored] * 3)
    with NewestFrame(str(video)) as source, running(segmenter, source=source) as server:
        seen, sides = [], set()
        after = 0
        for _ in range(8):
            answer = server.client.get("/live", params={"after": after, "task": "panoptic"})
            assert answer.status_code == 200, answer.text
            content = answer.json()
            after = content["frame"]
            seen.append(after)
            frame = cv2.imdecode(np.frombuffer(base64.b64decode(content["image"]), np.uint8), cv2.IMREAD_COLOR)
            assert frame.shape == picture.shape
            ball = next(one for one in content["segments"] if one["label"] == "ball")
            sides.add(ball["box"][0] < 10)
            assert (frame[30, 10, 2] > 200) == (ball["box"][0] < 10) or (frame[30, 10] > 200).all()
        assert seen == sorted(set(seen))
        assert sides == {True, False}
        assert server.client.get("/info").json()["source"] == "live"
        time.sleep(0.35)  # frames of the meantime are passed over
        assert server.client.get("/live", params={"after": after}).json()["frame"] > after + 2


def test_watchers_share_the_work_on_a_frame(segmenter, picture):
    class Still:
        newest, state = (1, picture), "live"

    slow = Slow(segmenter)
    with running(slow, source=Still(), waiting=0) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        watching = [pool.submit(server.client.get, "/live") for _ in range(4)]
        until(lambda: slow.begun == 1)
        time.sleep(0.2)
        slow.go.set()
        assert {future.result().status_code for future in watching} == {200}
    assert slow.begun == 1


def test_answers_for_watchers_are_few_and_failures_are_not_kept(segmenter, picture, monkeypatch):
    class Still:
        newest, state = (1, picture), "live"

    made = []
    monkeypatch.setattr(
        "mask2edge.runtime.http_app.answer", lambda *given, **more: made.append(given) or real_answer(*given, **more)
    )
    with running(segmenter, source=Still()) as server:
        monkeypatch.setattr(segmenter, "timed", lambda *_: (_ for _ in ()).throw(cli.InputError("a failure")))
        check_refused(server.client.get("/live"), 500, "the engine failed")
        monkeypatch.delattr(segmenter, "timed")
        assert server.client.get("/live").status_code == 200
        made.clear()
        for score in range(40):
            assert server.client.get("/live", params={"min_score": score / 100}).status_code == 200
        assert len(made) == 39  # 0 is the default, which was there
        server.client.get("/live", params={"min_score": 0.39})
        assert len(made) == 39
        server.client.get("/live", params={"min_score": 0.01})
        assert len(made) == 40  # dropped for newer ones


def test_a_source_that_is_lost_is_a_503(segmenter, monkeypatch):
    class Lost:
        newest, state = (0, None), "lost"

    monkeypatch.setattr("mask2edge.runtime.http_app.FRAME_SECONDS", 0.1)
    with running(segmenter, source=Lost()) as server:
        check_refused(server.client.get("/live"), 503, "no frame from the source within 0.1 s (lost)")
        assert server.client.get("/healthz").json() == {"status": "ok", "source": "lost"}


def test_requests_at_hand_are_answered_before_the_end(segmenter, picture):
    slow = Slow(segmenter)
    with running(slow) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(server.client.post, "/segment", content=encoded(picture))
        until(lambda: slow.begun == 1)
        server.service.stopping.set()
        time.sleep(0.5)
        assert server.thread.is_alive()
        slow.go.set()
        check_same(held.result().json(), segmenter(picture))
        server.thread.join(60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_cleanly(make_engine, picture, number):
    command = [sys.executable, "runtime/serve.py", make_engine(), "--port", "0", "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        about = json.loads(process.stdout.readline())
        answer = httpx.post(f"{about['url']}segment", content=encoded(picture), timeout=60)
        assert answer.status_code == 200
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stdout, stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.engine"], "expected an engine folder with spec.json"),
        (["ENGINE", "--source", "missing.mp4"], "missing.mp4: expected a video file, camera index, address or"),
        (["ENGINE", "--source", "ENGINE/spec.json"], "expected a video, got a file that OpenCV cannot open"),
        (["ENGINE", "--host", "203.0.113.7"], "choose another port, or a host of this machine"),
        (["ENGINE", "--port", "TAKEN"], "choose another port"),
        (["ENGINE", "--port", "70000"], "choose another port"),
        (["ENGINE", "--token-file", "missing"], "expected a file with a token"),
        (["ENGINE", "--token-file", "EMPTY"], "expected one word in ASCII"),
    ],
)
def test_mistakes_are_one_line(make_engine, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").write_text(" \n")
    engine = make_engine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"ENGINE": str(engine), "TAKEN": str(taken.getsockname()[1]), "EMPTY": str(tmp_path / "empty")}
        names["ENGINE/spec.json"] = str(engine / "spec.json")
        given = [names.get(argument, argument) for argument in arguments]
        if "--port" not in given:
            given += ["--port", "0"]
        code = cli.main(given)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_token_comes_from_the_environment_too(tmp_path, monkeypatch):
    monkeypatch.setenv(cli.TOKEN_VARIABLE, "from-the-environment\n")
    assert cli._read_token(None) == "from-the-environment"
    (tmp_path / "token").write_text("from-a-file\n")
    assert cli._read_token(tmp_path / "token") == "from-a-file"
    monkeypatch.delenv(cli.TOKEN_VARIABLE)
    assert cli._read_token(None) is None


def test_help_has_an_example():
    done = subprocess.run(
        [sys.executable, "runtime/serve.py", "--help"], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0
    assert "example: python runtime/serve.py" in done.stdout
