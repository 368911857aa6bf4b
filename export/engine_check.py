"""What every builder does around its own work: look where the engine goes, and run it once before it gets its name.

require_engine_name(out)
with one_line_for_disk_errors(out), whole_folder(out) as folder:
    ...
    check_results(session, spec)
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.session import Session
from mask2edge.runtime.spec import MASK_STRIDE, SPEC_FILE, EngineSpec


def require_engine_name(out: Path) -> None:
    """Raises InputError where `out` is there and is something else than an engine."""
    if out.exists() and not (out / SPEC_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out: {out} exists and is no engine; choose another name or remove it")


@contextlib.contextmanager
def one_line_for_disk_errors(out: Path) -> Iterator[None]:
    """Raises InputError instead of OSError: a full disk is nobody's bug."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; free some space, or name another disk with --out"
        raise InputError(f"{out}: could not be written ({reason}); nothing was left there") from error


def check_results(session: Session, spec: EngineSpec) -> None:
    """Runs noise of the profile's best size through the session. Raises InputError where the results are unsound."""
    batch, height, width = spec.profile.opt
    pixels = np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)  # [N, 3, H, W]
    results = session.run(pixels)
    queries = spec.model.num_queries
    expected = {
        "class_logits": (batch, queries, spec.model.num_classes + 1),
        "mask_logits": (batch, queries, height // MASK_STRIDE, width // MASK_STRIDE),
    }
    for name, shape in expected.items():
        if results[name].shape != shape:
            raise InputError(f"{name}: expected {list(shape)}, got {list(results[name].shape)}; export the model again")
        if not np.isfinite(results[name]).all():
            raise InputError(f"{name}: expected finite numbers on a test input, got others; are the weights sound?")
