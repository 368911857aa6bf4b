"""Engines that a benchmark builds for itself, and builds again once the code that builds them has changed.

    fresh_engine(Path("models/street-lite.safetensors"), Path("artifacts/peers/street-lite-fp32.engine"))

A cached engine of an older exporter would otherwise be measured as if it were today's. Beside the engine lies a digest
of its checkpoint and of that code. Building runs in a process of its own: torch's threads and memory stay out of the
process that measures.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2edge.runtime.command_line import InputError, say, sha256_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mask2edge.train", "mask2edge.export", "mask2edge.trt_plugins")


def fresh_engine(
    checkpoint: Path, engine: Path, size: tuple[int, int] | None = None, precision: Sequence[str] = ("--fp32",)
) -> Path:
    """An engine for ONNX Runtime at `engine`, (H, W) None being the checkpoint's own. `precision`: flags of
    build_engine.py. Raises InputError.
    """
    mark = engine.with_suffix(".digest")
    digest = f"{exporter_digest()} {sha256_of(checkpoint)} {' '.join(precision)}"
    if not (engine / "spec.json").is_file() or not mark.is_file() or mark.read_text(encoding="utf-8") != digest:
        say(f"building {engine} of {checkpoint}")
        sized = ("--size", f"{size[0]}x{size[1]}") if size else ()
        arguments = (*precision, "--backend", "onnxruntime", *sized, "--out", str(engine))
        run_script("export/build_engine.py", str(checkpoint), *arguments)
        mark.write_text(digest, encoding="utf-8")
    return engine


def exporter_digest() -> str:
    """Of the Python code that an engine depends on, as hexadecimal digits."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations if found else None) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def run_script(script: str, *arguments: str) -> None:
    """`export/build_engine.py` and the like, of the checkout or of the installed package. Raises InputError."""
    path = ROOT / script
    if path.is_file():
        run_python(str(path), *arguments)
    else:
        run_python("-m", "mask2edge." + script.removesuffix(".py").replace("/", "."), *arguments)


def run_python(*arguments: str) -> None:
    """Raises InputError with the last line of what a failed program said."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise InputError(f"`python {' '.join(arguments)}` ended with exit code {done.returncode}: {lines[-1]}")
