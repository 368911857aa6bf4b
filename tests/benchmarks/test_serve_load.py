"""serve_load.py: it finds every answer right on a server that is sound, and says what is wrong with one that is not."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mask2edge.benchmarks import serve_load
from mask2edge.benchmarks.bad_requests import BAD_REQUESTS, SLOW, Server


@pytest.mark.parametrize(
    ("clients", "seconds", "queue", "slow_senders"),
    [(6, 3, None, False), (6, 3, 1, False), pytest.param(32, 60, None, True, marks=pytest.mark.slow)],
)
def test_a_sound_server_passes(color_engine, capsys, monkeypatch, clients, seconds, queue, slow_senders):
    if not slow_senders:  # each takes the server's ten seconds
        monkeypatch.delitem(BAD_REQUESTS, SLOW)
    arguments = ["--clients", clients, "--seconds", seconds, "--bad", 0.3, "--threads", 1, "--json"]
    arguments += ["--queue", queue] if queue else []
    code = serve_load.main(list(map(str, [color_engine(), *arguments])))
    report = json.loads(capsys.readouterr().out)
    assert (code, report["first_wrong"], report["crashed"], report["exit_code"]) == (0, [], False, 0)
    assert report["good"] > 0
    assert report["bad"] > 0
    assert 0 < report["p50_ms"] <= report["p90_ms"] <= report["p99_ms"]
    assert 0 < report["memory_early_mb"] <= report["memory_most_mb"]
    assert {kind.split(":")[0] for kind in report["bad_by_kind"]} <= set(BAD_REQUESTS)


def test_answers_that_are_wrong_are_found():
    class Obliging(BaseHTTPRequestHandler):
        """Says yes to everything, and always the same."""

        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b'{"segments": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Obliging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        segment = {"id": 1, "score": 0.9, "rle": {"size": [1, 1], "counts": "01"}}
        goods = [serve_load.Good(b"image", {}, [segment])]
        tally, _ = asyncio.run(serve_load.load(Server(url, "token"), goods, clients=2, seconds=0.5, bad=0.0))
        assert set(tally.wrong) == {"good request: other segments than the Segmenter's"}
        serve_load._judge_bad(tally, "text", 200, "")
        assert tally.wrong[-1] == "text: expected 415 and a reason in one line, got 200 ''"
        server.shutdown()


@pytest.mark.parametrize(
    ("got", "right", "same"),
    [
        ([], [], True),
        ([{"id": 1, "score": 0.5}], [{"id": 1, "score": 0.50001}], True),
        ([{"id": 1, "score": 0.5}], [{"id": 1, "score": 0.6}], False),
        ([{"id": 1, "score": 0.5}], [{"id": 2, "score": 0.5}], False),
        ([{"id": 1, "score": 0.5}], [], False),
    ],
)
def test_segments_are_compared(got, right, same):
    assert serve_load._same(got, right) is same


def test_memory_is_summed_up_by_tenths():
    report = serve_load.summarise(serve_load.Tally([10.0, 20.0]), [50.0] * 2 + [100.0] * 16 + [120.0, 110.0], 4)
    assert (report["memory_early_mb"], report["memory_late_mb"], report["memory_most_mb"]) == (100.0, 115.0, 120.0)
    assert (report["p50_ms"], report["per_second"]) == (15.0, 0.5)


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert serve_load.main([str(tmp_path / "missing.engine")]) == 2
    assert "expected an engine folder" in capsys.readouterr().err
    assert serve_load.main([str(tmp_path), "--bad", "2"]) == 2
    assert "--bad: expected a part from 0" in capsys.readouterr().err
