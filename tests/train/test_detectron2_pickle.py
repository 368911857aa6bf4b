"""The pickle reader: arrays come out as Python's own pickle gives them; anything that would run code is refused.

pytest -k detectron2
"""

import collections
import contextlib
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mask2edge.runtime.command_line import InputError
from mask2edge.train.foreign.detectron2_weights import read_detectron2_weights
from mask2edge.train.foreign.pickle_data import read_pickle

ARRAYS = hnp.arrays(
    st.sampled_from(["<f2", "<f4", "<f8", "<i4", "<i8", "<u1", "|b1", ">f4"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def written(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@given(ARRAYS, st.integers(0, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_detectron2_pickle_gives_the_arrays(tmp_path_factory, array, protocol, fortran):
    if fortran:
        array = np.asfortranarray(array)
    path = tmp_path_factory.getbasetemp() / "arrays.pkl"
    value = {"model": collections.OrderedDict(a=array, again=array), "__author__": "me", "step": (1, 2.5, None, True)}
    got = read_pickle(written(path, value, protocol))
    assert got["__author__"] == "me"
    assert got["step"] == (1, 2.5, None, True)
    for mine in got["model"].values():
        assert mine.dtype == array.dtype
        np.testing.assert_array_equal(mine, array)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
), st.integers(0, 5))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_detectron2_pickle_gives_plain_data(tmp_path_factory, value, protocol):
    path = written(tmp_path_factory.getbasetemp() / "plain.pkl", value, protocol)
    assert read_pickle(path) == value


@given(st.binary(max_size=3), st.integers(0, 400), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_detectron2_pickle_damaged_is_one_error(tmp_path_factory, junk, place, cut):
    data = pickle.dumps({"model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [1, (2,), {"c": "d"}]}})
    place = min(place, len(data))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(data[:place] + junk + data[place + cut :])
    with contextlib.suppress(InputError):  # any other exception fails
        read_pickle(path)


def test_detectron2_pickle_truncated_anywhere(tmp_path):
    data = pickle.dumps({"model": {"a": np.zeros((2, 3), np.float32)}})
    for length in range(1, len(data)):
        path = tmp_path / "cut.pkl"
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="damaged or truncated"):
            read_pickle(path)


class Evil:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


class Plain:
    pass


def evil_streams(canary):
    """Name, bytes, and what the refusal must name."""
    touch = f"touch {canary}"
    source = f"open({str(canary)!r}, 'w').close()"
    yield "os.system", pickle.dumps({"model": {"a": Evil((os.system, (touch,)))}}), "system"
    yield "eval", pickle.dumps(Evil((eval, (source,)))), "eval"
    yield "exec, protocol 0", pickle.dumps(Evil((exec, (source,))), 0), "exec"
    yield "getattr", pickle.dumps(Evil((getattr, (os, "system")[:0] or ("a", "b")))), "getattr"
    yield "an object", pickle.dumps(Plain()), "Plain"
    yield "INST", f"(S'{touch}'\nios\nsystem\n.".encode(), "os system"
    yield "OBJ", f"(cos\nsystem\nS'{touch}'\no.".encode(), "os.system"
    yield "NEWOBJ", b"\x80\x02cos\nsystem\n)\x81.", "os.system"
    yield "a persistent id", b"\x80\x02X\x01\x00\x00\x00aQ.", "BINPERSID"
    yield "an extension", b"\x80\x02\x82\x01.", "EXT1"
    yield "a bare global", b"\x80\x02cos\nsystem\n.", "os.system"
    yield "state for a global", b"\x80\x02cos\nsystem\n}b.", "state for the global os.system"
    yield (
        "an array class",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85C\x01b\x87R.",
        "os.system",
    )
    yield "an object array", pickle.dumps(np.array([Plain()], dtype=object)), "dtype 'O8'"
    yield "a second level", b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R)R.", "os.system"


@pytest.mark.parametrize("index", range(15))
def test_detectron2_pickle_that_would_run_code_is_refused(tmp_path, index):
    canary = tmp_path / "canary"
    streams = list(evil_streams(canary))
    assert len(streams) == 15
    _, data, named = streams[index]
    path = tmp_path / "evil.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match="nothing was run") as caught:
        read_detectron2_weights(path)
    assert named in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02Nr\xff\xff\xff\xff.", "expected {'model'"),  # a memo index that would cost C pickle 64 GB
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"abc", "damaged or truncated"),  # bytes of a claimed 2**63
        (b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".", "nested more than 20 deep"),
        (b"\x80\x02]q\x00h\x00a.", "nested more than 20 deep"),  # a list inside itself
        (b"hello, world", "damaged or truncated"),
        (b"\x80\x04N.", "expected {'model'"),
        (b"", "an empty one"),
    ],
)
def test_detectron2_pickle_of_another_kind(tmp_path, data, message):
    path = tmp_path / "odd.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_detectron2_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_detectron2_pth_that_would_run_code_is_refused(tmp_path, zipped):
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pth"
    content = {"model": {"a": torch.zeros(2), "b": Evil((os.system, (f"touch {canary}",)))}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"system.*nothing was run") as caught:
        read_detectron2_weights(path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_detectron2_pth_truncated(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": torch.arange(1000.0)}}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_detectron2_weights(path)["a"], torch.arange(1000.0))
    data = path.read_bytes()
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(InputError):
            read_detectron2_weights(path)
