"""What the server bounds: slow senders, callers in line, bodies, time, connections and answers that nobody reads."""

import concurrent.futures
import socket
import time
import unittest.mock

import httpx
import pytest
from serving import Slow, check_refused, encoded, running, until

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
from mask2edge.runtime.http_protocol import LingeringTransport


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


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET / HTTP/1.1\r\n: y\r\n\r\n", b"400"),
        (HEAD[:30], b"408"),
        (HEAD.replace(b"1000", b"1000000") + b"x", b"408"),
        (b"POST /segment HTTP/1.1\r\nHost: localhost\r\n\r\n", b"4"),  # what follows belongs to no request
    ],
)  # fmt: skip
def test_a_refusal_reaches_a_caller_that_goes_on_sending(segmenter, first, status):
    with (
        running(segmenter, head_seconds=0.3, body_seconds=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
    ):
        connection.sendall(first)
        for _ in range(8):  # after 0.3 s into what the server has closed
            time.sleep(0.1)
            connection.sendall(b"x" * 1000)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        assert b"HTTP/1.1 " + status in answer
        assert answer.count(b"HTTP/1.1 4") == 1
        assert server.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("error", [OSError(107, "Transport endpoint is not connected"), NotImplementedError()])
def test_a_connection_that_cannot_be_half_closed_is_closed(error):
    transport = unittest.mock.Mock(**{"is_closing.return_value": False, "write_eof.side_effect": error})
    lingering = LingeringTransport(transport, unittest.mock.Mock())
    lingering.close()
    lingering.close()
    transport.close.assert_called_once_with()
    assert lingering.is_closing()


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
