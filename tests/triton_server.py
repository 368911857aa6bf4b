"""The real Triton server, from the wheel nvidia-pytriton, on this machine's CPU and its loopback address alone.

    with running_server(repository, folder) as client:      # tritonclient.http.InferenceServerClient
        client.is_model_ready("toy")

The wheel brings the server, its Python backend and a stub for each Python. That backend wants NumPy 1 (under NumPy 2
all bytes of a tensor read as its first), and the tests do not, so both lie in a folder that the server alone sees:

    pip install --no-deps --target "$VIRTUAL_ENV/triton-server" 'nvidia-pytriton==0.7.*' 'numpy<2'
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = Path(sys.prefix) / "triton-server"
START = 240  # seconds until a slow machine has started it


def server_folder() -> Path | None:
    folder = PACKAGES / "pytriton" / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def missing() -> str:
    """Why these tests cannot run; "" where they can."""
    if server_folder() is None:
        return f"Triton's server is not in {PACKAGES.name} of this environment: see tests/triton_server.py"
    if not _stub().is_file():
        return f"nvidia-pytriton has no stub for Python {sys.version_info[0]}.{sys.version_info[1]}"
    try:
        import tritonclient.http  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"Triton's client is not here ({error}): pip install 'tritonclient[http]'"
    return ""


@contextlib.contextmanager
def running_server(repository: Path, folder: Path, *options: str) -> Iterator:
    """`folder` takes the server's backends and its log. Ends the server at the end of the block."""
    import tritonclient.http

    root = server_folder()
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (root / "backends" / "python").iterdir():
        if file.is_file():
            shutil.copy(file, backend)
    shutil.copy(_stub(), backend)
    port, metrics = _free_port(), _free_port()
    libraries = (root.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    environment = {
        **os.environ,
        # The stub embeds the Python that is found first, and does not look at PYTHONPATH.
        "PATH": os.pathsep.join((str(_environment(folder / "python")), os.environ.get("PATH", ""))),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        str(root / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1", f"--http-port={port}",
        "--allow-grpc=false", "--metrics-address=127.0.0.1", f"--metrics-port={metrics}", "--allow-gpu-metrics=false",
        "--disable-auto-complete-config", *options,
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            client = tritonclient.http.InferenceServerClient(
                f"127.0.0.1:{port}", concurrency=8, network_timeout=START, connection_timeout=START
            )
            end = time.monotonic() + START
            while not _ready(client):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"Triton did not start:\n{log.read_text()[-6000:]}")
                time.sleep(0.2)
            yield client
            client.close()
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(folder: Path) -> Path:
    """A virtual environment that sees the server's NumPy first and then all that the tests see; returns its bin."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    site = sysconfig.get_path("purelib")
    (packages / "tests.pth").write_text(f"{PACKAGES}\nimport site; site.addsitedir({site!r})\n")
    return folder / "bin"


def _ready(client) -> bool:
    try:
        return client.is_server_ready()
    except OSError:
        return False


def _stub() -> Path:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return server_folder() / "python_backend_stubs" / version / "triton_python_backend_stub"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


needs_triton = pytest.mark.skipif(bool(missing()), reason=missing())
