"""serve.py as a command: a clean end, mistakes in one line, the token's places."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from serving import Slow, check_same, encoded, running, until

from mask2edge.runtime import serve as cli

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]


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
