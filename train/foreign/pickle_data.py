"""Reads a pickle as data: containers, numbers, strings and NumPy arrays; nothing in it is looked up or run.

    weights = read_pickle(Path("model_final_94dc52.pkl"))["model"]

A pickle is a program, and `pickle.Unpickler` runs it. Here `pickletools` only splits it into instructions, and the few
that build plain data are carried out on a stack of our own. A global is never imported: it stays a name, and calling it
is possible for the handful that NumPy arrays are made of, whose meaning is written below. Everything else is refused
by name.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.runtime.command_line import InputError

MAX_INSTRUCTIONS = 10_000_000  # an official file has about 30,000
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

# Instructions whose argument is the value that they push.
VALUES = {
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Refused(ValueError):
    """Anything in the stream that is not plain data."""


@dataclass(frozen=True)
class _Global:
    name: str  # module.attribute, as written


@dataclass
class _Dtype:
    code: str
    order: str = "<"

    def set_state(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"byte order {order!r}")
        self.order = "<" if order in ("|", "=") else order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.since_mark()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            stack.append(self.since_mark())
        elif name == "APPEND":
            item = stack.pop()
            _of(list, stack[-1]).append(item)
        elif name == "APPENDS":
            items = self.since_mark()
            _of(list, stack[-1]).extend(items)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "DICT":
            stack.append(_pairs(self.since_mark()))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _of(dict, stack[-1])[key] = value
        elif name == "SETITEMS":
            items = self.since_mark()
            _of(dict, stack[-1]).update(_pairs(items))
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Global(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], (_Dtype, _Array)):
                raise _Refused(f"state for {_describe(stack[-1])}")
            stack[-1].set_state(state)
        elif name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
            names = [argument] if argument else [item.name for item in stack if isinstance(item, _Global)][-1:]
            raise _Refused(f"an object of {' '.join(map(str, names)) or 'a class'}")
        else:
            raise _Refused(f"the instruction {name}")


def read_pickle(path: Path) -> Any:
    """The file's value, with arrays as NumPy arrays. Raises InputError for anything that is not plain data."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _run(data)
    except _Refused as error:
        raise InputError(
            f"{path}: expected a pickle of NumPy arrays and plain containers, got {error}; nothing was run. "
            "Do not trust this file; fetch it again from its source"
        ) from error
    # Whatever a damaged or hostile stream trips over here is the file's fault.
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, OSError) as error:
        raise InputError(f"{path}: expected a whole pickle, got a damaged or truncated one ({error})") from error


def _run(data: mmap.mmap) -> Any:
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]  # a map reads like a file
        if opcode.name == "STOP":
            return _plain(machine.stack.pop())
        if count >= MAX_INSTRUCTIONS:
            raise _Refused(f"more than {MAX_INSTRUCTIONS} instructions")
        machine.step(opcode.name, argument)
    raise ValueError("no end")


def _plain(value: Any, depth: int = 0) -> Any:
    """Arrays out of their shells, in the containers of a checkpoint; a global outside a call is refused."""
    if depth > 20:
        raise _Refused("containers nested more than 20 deep")
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without data")
        return value.value
    if isinstance(value, (_Global, _Dtype)):
        raise _Refused(_describe(value))
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, depth + 1) for item in value)
    return value


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Global) or function.name not in CALLS:
        raise _Refused(f"a call of {_describe(function)}")
    return CALLS[function.name](*_of(tuple, arguments))


def _dtype(code: Any, *_: Any) -> _Dtype:
    if isinstance(code, bytes):
        code = code.decode("ascii")
    if code not in DTYPES:
        raise _Refused(f"an array of dtype {code!r}")
    return _Dtype(code)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind != _Global("numpy.ndarray"):
        raise _Refused(f"an array class {_describe(kind)}")
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()].item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, dtype, shape, order))


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if isinstance(data, str):  # as Python 2 wrote it
        data = data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise ValueError("an array without bytes")
    kind = _of(_Dtype, dtype).numpy()
    sizes = _of(tuple, shape)
    if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {sizes} in {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(sizes, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"bytes encoded as {encoding!r}")
    return _of(str, text).encode("latin-1")


def _empty_bytes() -> bytes:  # how protocols before 3 write b""
    return b""


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    return _pairs([item for pair in (arguments[0] if arguments else ()) for item in pair])


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
    "collections.OrderedDict": _ordered_dict,
    **{
        f"{package}.{name}": function
        for package in ("numpy.core", "numpy._core")
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
}


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{_describe(value)} in place of a {kind.__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[0::2], items[1::2], strict=True))


def _describe(value: Any) -> str:
    return f"the global {value.name}" if isinstance(value, _Global) else f"a {type(value).__name__}"
