"""Serves one engine over HTTP, and a page to try it on: images dropped there, or the device's camera as it sees.

    python runtime/serve.py artifacts/street-lite-fp16.engine --source 0
    curl --data-binary @street.jpg 'http://127.0.0.1:8000/segment?task=semantic'

docs/serving.md has the endpoints and the limits. Ctrl-C or SIGTERM ends it once the requests at hand are answered.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from mask2edge.runtime.command_line import InputError, command, natural_number, positive_float, positive_number, say
from mask2edge.runtime.live_source import NewestFrame
from mask2edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from mask2edge.runtime.http_limits import Limits

TOKEN_VARIABLE = "MASK2EDGE_TOKEN"
GRACE_SECONDS = 10  # for the requests at hand, once the server is told to stop


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    _check_packages()
    from mask2edge.runtime.http_app import Service
    from mask2edge.runtime.http_limits import Limits

    limits = Limits(
        arguments.max_bytes, arguments.max_pixels, arguments.queue, arguments.connections, seconds=arguments.timeout
    )
    token = _read_token(arguments.token_file)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(arguments.host, arguments.port))
        segmenter = stack.enter_context(
            Segmenter.load(arguments.engine, arguments.object_threshold, arguments.overlap_threshold, arguments.threads)
        )
        if arguments.threads:
            cv2.setNumThreads(arguments.threads)
        source = None if arguments.source is None else stack.enter_context(NewestFrame(arguments.source))
        service = Service(segmenter, arguments.engine.resolve().name.removesuffix(".engine"), source)
        url = _url(arguments.host, listener.getsockname()[1])
        if token is None and not _is_loopback(arguments.host):
            say(f"warning: whoever reaches {url} may use it; --token-file or {TOKEN_VARIABLE} asks for a token")
        about = {
            "url": url,
            "engine": str(arguments.engine),
            "source": source and source.label,
            "token": token is not None,
        }
        listener.listen()  # whoever reads the next line may connect
        print(json.dumps(about) if arguments.json else f"serving {service.name} at {url}", flush=True)
        run(service, limits, listener, token, [arguments.host, *arguments.allow_host])
    return 0


def run(service: Any, limits: Limits, listener: socket.socket, token: str | None, hosts: Sequence[str]) -> None:
    """Serves a `Service` until SIGTERM, Ctrl-C, or `service.stopping` is set."""
    import uvicorn

    from mask2edge.runtime.http_app import make_app
    from mask2edge.runtime.http_protocol import bounded_protocol

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or service.stopping.is_set()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """uvicorn's own raises the signal once more when all is done: exit codes -15 and 130 for a clean end."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return

            def stop(number: int, frame: Any) -> None:
                service.stopping.set()
                self.handle_exit(number, frame)  # a second Ctrl-C does not wait

            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    names = {"localhost", socket.gethostname(), f"{socket.gethostname()}.local", *hosts}
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what a client did wrong is in its answer and the metrics
    config = uvicorn.Config(
        make_app(service, limits, token, names),
        http=bounded_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config).run(sockets=[listener])


def _check_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"the server needs packages of its own ({error}); pip install 'mask2edge[serve]'") from error


def _listen(host: str, port: int) -> socket.socket:
    """A socket, not yet listening, that is bound before the engine is loaded, so that a mistake shows at once."""
    if port > 65535:
        raise InputError(f"--port {port}: expected at most 65535; choose another port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot be served at ({error.strerror}); choose another port, or a host of "
            "this machine"
        ) from error
    return listener


def _read_token(file: Path | None) -> str | None:
    """From the file, or the environment; None where there is neither. Raises InputError."""
    name, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        name = f"--token-file {file}"
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: expected a file with a token in ASCII; it cannot be read") from error
    if text is None:
        return None
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{name}: expected one word in ASCII, got {len(token)} characters that are not")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Serve an engine over HTTP, with a live page.",
        epilog="example: python runtime/serve.py artifacts/street-lite-fp16.engine --source 0 --port 8000",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument("--source", help="camera index, video file or stream address for the page's live view")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (default: %(default)s)")
    parser.add_argument("--port", type=natural_number, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name in front of a proxy")
    parser.add_argument("--token-file", type=Path, help=f"file with the token to ask for; or {TOKEN_VARIABLE}")
    parser.add_argument("--max-bytes", type=positive_number, default=20 << 20, help="of a body (default: %(default)s)")
    parser.add_argument(
        "--max-pixels", type=positive_number, default=1 << 24, help="of an image (default: %(default)s)"
    )
    parser.add_argument("--queue", type=natural_number, default=8, help="images that may wait (default: %(default)s)")
    parser.add_argument("--connections", type=positive_number, default=64, help="at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=positive_float, default=30.0, help="s for a request (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="0: the backend's choice (default)")
    parser.add_argument("--object-threshold", type=float, help="panoptic: least class score; default: the engine's")
    parser.add_argument("--overlap-threshold", type=float, help="panoptic: least part in view; default: the engine's")
    parser.add_argument("--json", action="store_true", help="say where it serves as one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
