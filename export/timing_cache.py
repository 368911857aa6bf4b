"""TensorRT's timing cache: kernels that were measured before need not be measured again.

    cache = TimingCache(path)
    cache.attach(config)          # before the build
    cache.save(config)            # after it; whole or not at all

A cache holds for one device and one version of TensorRT, which checks that; the default name says both. Losing a cache
costs time and nothing else, so nothing about it stops a build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import say, whole_file
from mask2edge.runtime.session import first_line


def default_path(version: str, device: str) -> Path:
    """artifacts/tensorrt-10.3.0-orin.timing-cache"""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return Path("artifacts") / f"tensorrt-{version}-{name}.timing-cache"


class TimingCache:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = b""

    def attach(self, config: Any) -> None:
        """Gives the build what is in the file, or an empty cache where that cannot be used."""
        try:
            self._before = self.path.read_bytes() if self.path.is_file() else b""
        except OSError as error:
            say(f"{self.path}: cannot be read ({error.strerror}); kernels are measured again")
        if self._before and not _attached(config, self._before):
            say(f"{self.path}: not of this device and this TensorRT, or damaged; kernels are measured again")
            self._before = b""
        if not self._before:
            _attached(config, b"")

    def save(self, config: Any) -> None:
        try:
            cache = config.get_timing_cache()
            content = bytes(cache.serialize()) if cache is not None else b""
            if content and content != self._before:
                with whole_file(self.path) as temporary:
                    temporary.write_bytes(content)
        except Exception as error:  # of the bindings, or of a disk
            say(f"{self.path}: cannot be written ({first_line(error)}); the next build measures again")


def _attached(config: Any, content: bytes) -> bool:
    try:
        cache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, False))
    except Exception:  # the bindings raise RuntimeError, TypeError and others
        return False
