"""The error contract of every command, and artifacts that are whole or absent."""

import errno
import os
import stat

import pytest

from mask2edge.runtime.command_line import InputError, command, parse_size, whole_file, whole_folder


def test_an_input_error_is_one_line_and_exit_code_2(capsys):
    @command
    def main(argv=None):
        raise InputError("expected a\n  checkpoint, got a poem")

    assert main([]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: expected a checkpoint, got a poem\n")


def test_a_bug_keeps_its_traceback():
    @command
    def main(argv=None):
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        main([])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: a file: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out/a.png"), "error: out/a.png: Permission denied\n"),
    ],
)
def test_what_the_machine_refuses_is_one_line_and_exit_code_1(capsys, error, line):
    @command
    def main(argv=None):
        raise error

    assert main([]) == 1
    assert capsys.readouterr().err == line


def test_an_operating_systems_error_that_is_a_bug_keeps_its_traceback():
    @command
    def main(argv=None):
        raise FileNotFoundError(errno.ENOENT, "No such file", "ours.json")

    with pytest.raises(FileNotFoundError):
        main([])


def test_an_interrupted_command_exits_with_130(capsys):
    @command
    def main(argv=None):
        raise KeyboardInterrupt

    assert main([]) == 130


def test_a_file_is_replaced_as_a_whole_with_the_usual_rights(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with whole_file(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_artifact_and_nothing_else(tmp_path):
    path, folder = tmp_path / "a.txt", tmp_path / "a.engine"
    path.write_text("old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="disk full"), whole_file(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"), whole_folder(folder) as temporary:
        (temporary / "half").touch()
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [file.name for file in folder.iterdir()] == ["old"]
    assert sorted(os.listdir(tmp_path)) == ["a.engine", "a.txt"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    folder = tmp_path / "a.engine"
    for name in ("one", "two"):
        with whole_folder(folder) as temporary:
            (temporary / name).touch()
    assert os.listdir(folder) == ["two"]
    assert os.listdir(tmp_path) == ["a.engine"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected the name of a folder"), whole_folder(tmp_path / "file"):
        pass
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="expected the name of a file"), whole_file(path):
            pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("512", "expected HEIGHTxWIDTH such as 512x1024, got '512'"),
        ("axb", "expected HEIGHTxWIDTH"),
        ("500x512", "expected multiples of 32, got 500x512; use 512x512"),
        ("0x32", "expected multiples of 32, got 0x32; use 32x32"),
    ],
)
def test_a_size_that_no_engine_has_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_size(text)


def test_a_size_is_height_first():
    assert parse_size("384x480") == (384, 480)
