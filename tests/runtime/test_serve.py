"""The HTTP server: right answers for good requests, a status and one line for bad ones, its metrics and its page."""

import base64

import cv2
import numpy as np
import pytest
from serving import check_refused, check_same, encoded, running

from mask2edge.benchmarks.bad_requests import png_of_size
from mask2edge.runtime import serve as cli
from mask2edge.runtime.segmenter import Segmenter

pytest.importorskip("onnxruntime")


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


def test_the_description_of_the_interface_has_the_body_and_the_query(segmenter):
    with running(segmenter) as server:
        operations = server.client.get("/openapi.json").json()["paths"]
        asked = {one["name"] for one in operations["/segment"]["post"]["parameters"]}
        assert asked == {"task", "object_threshold", "overlap_threshold", "min_score", "overlay"}
        body = operations["/segment"]["post"]["requestBody"]
        assert set(body["content"]) == {"image/jpeg", "image/png", "image/webp", "image/bmp"}
        assert set(operations) == {"/segment", "/live", "/info", "/healthz", "/metrics"}


@pytest.mark.parametrize("path", ["/", "/healthz"])
def test_head_is_get_without_the_body(segmenter, path):
    with running(segmenter) as server:
        got, head = server.client.get(path), server.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))


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
        check_refused(server.client.post("/segment/", content=b"x"), 404, "not found")
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
