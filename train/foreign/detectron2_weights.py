"""The tensors of a detectron2 file: `.pkl` with NumPy arrays, as in the official zoo, or `.pth` of a training run.

weights = read_detectron2_weights(Path("model_final_94dc52.pkl"))
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mask2edge.runtime.command_line import InputError
from mask2edge.train.foreign.pickle_data import read_pickle

TORCH_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that old torch files start with


def read_detectron2_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name. The kind of file is told by its first bytes, not by its ending.

    Raises InputError for a missing, damaged or foreign file, and for one that would run code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a detectron2 .pkl or .pth file, or a Hugging Face folder")
    if not path.stat().st_size:
        raise InputError(f"{path}: expected a detectron2 .pkl or .pth file, got an empty one")
    with path.open("rb") as file:
        start = file.read(len(TORCH_BEFORE_ZIP))
    content = _read_torch(path) if start[:2] == b"PK" or start == TORCH_BEFORE_ZIP else read_pickle(path)
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise InputError(f"{path}: expected {{'model': {{name: array}}}}, got {type(content).__name__}")
    return {name: _tensor(value, name, path) for name, value in model.items()}


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(
                path
            ) as archive:  # torch stores its records as they are; packed ones could unpack to more
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise InputError(f"{path}: expected a .pth file as torch.save writes it, got a packed archive")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        what = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line), "")
        raise InputError(
            f"{path}: expected tensors and plain containers, got {what or str(error).splitlines()[0]}; "
            "nothing was run. Do not trust this file; fetch it again from its source"
        ) from error
    # torch answers a damaged archive with any of these.
    except (
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"{path}: expected a whole .pth file, got a damaged or truncated one ({str(error)[:200]})"
        ) from error


def _tensor(value: Any, name: str, path: Path) -> Tensor:
    if isinstance(value, np.ndarray):
        # Own memory in this machine's byte order; the file's may be read-only.
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C", copy=True))
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
        return value.detach()
    if isinstance(value, (bool, int, float)):  # num_batches_tracked as a scalar
        return torch.tensor(value)
    raise InputError(f"{path}: {name}: expected an array, got {type(value).__name__}")
