"""results_table.py: rows, tables that grow, files that are of another table, and a process that is stopped midway."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.benchmarks.results_table import append_row, append_rows, read_rows, require_appendable
from mask2edge.runtime.command_line import InputError


def test_rows_are_not_mixed_with_other_columns(tmp_path):
    path = tmp_path / "a.csv"
    append_row(path, ("one", "two"), {"one": 1, "two": "with, comma"})
    append_row(path, ("one", "two"), {"one": 3, "two": 4})
    assert path.read_text() == 'one,two\n1,"with, comma"\n3,4\n'
    for columns in (("one", "three"), ("two", "one", "three"), ("one",)):
        with pytest.raises(InputError, match=f"expected the columns {', '.join(columns)}, got one, two"):
            append_row(path, columns, dict.fromkeys(columns, 1))
    assert path.read_text() == 'one,two\n1,"with, comma"\n3,4\n'


def test_a_table_grows_and_keeps_its_rows(tmp_path):
    path = tmp_path / "a.csv"
    append_row(path, ("one", "two"), {"one": 1, "two": "with, comma"})
    append_row(path, ("one", "two", "new"), {"one": 3, "two": 4, "new": 5})
    assert path.read_text() == 'one,two,new\n1,"with, comma",\n3,4,5\n'
    assert [found.name for found in tmp_path.iterdir()] == ["a.csv"]  # nothing temporary is left


def test_older_rows_are_read_with_empty_new_columns(tmp_path):
    path = tmp_path / "a.csv"
    append_row(path, ("one",), {"one": 1})
    before = path.read_bytes()
    assert read_rows(path, ("one", "new")) == [{"one": "1", "new": ""}]
    assert read_rows(path) == [{"one": "1"}]
    assert path.read_bytes() == before
    assert read_rows(tmp_path / "none.csv", ("one",)) == []


COLUMNS = st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True)
CELL = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=6)


@settings(deadline=None, max_examples=30)  # files
@given(st.data())
def test_no_cell_is_ever_lost(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    columns, expected = data.draw(COLUMNS), []
    for _ in range(3):
        row = {column: data.draw(CELL) for column in columns}
        append_row(path, columns, row)
        expected.append(row)
        columns = [*columns, *(name for name in data.draw(COLUMNS) if name not in columns)]
    assert read_rows(path, columns) == [{column: row.get(column, "") for column in columns} for row in expected]


def test_a_line_of_other_cells_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    for line in ("1", "1,2,3"):
        path.write_text(f"one,two\n5,6\n{line}\n")
        with pytest.raises(InputError, match="line 3: expected 2 cells; mend the line"):
            read_rows(path, ("one", "two"))


def test_what_cannot_be_appended_to_is_known_beforehand_and_nothing_is_made(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("one,two\n1,2\n")
    require_appendable(path, ("one", "two", "new"))
    require_appendable(tmp_path / "new/folder/b.csv", ("one",))
    with pytest.raises(InputError, match="expected the columns one, three"):
        require_appendable(path, ("one", "three"))
    with pytest.raises(InputError, match="expected a file in a folder that can be written, got Not a directory"):
        require_appendable(path / "b.csv", ("one",))
    assert [found.name for found in tmp_path.iterdir()] == ["a.csv"]


def test_a_last_line_without_an_end_is_not_continued(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("one,two\n1,2")
    append_row(path, ("one", "two"), {"one": 3, "two": 4})
    assert path.read_text() == "one,two\n1,2\n3,4\n"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.csv").write_text("one\n1\n")
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")
    append_row(link, ("one",), {"one": 2})
    assert link.is_symlink()
    assert (tmp_path / "real.csv").read_text() == "one\n1\n2\n"


def test_rows_of_several_at_once_are_all_kept(tmp_path):
    path = tmp_path / "a.csv"
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(append_row, path, ("one",), {"one": number}) for number in range(60)]:
            done.result()
    assert sorted(int(row["one"]) for row in read_rows(path)) == list(range(60))


STOPPED = """
import os, signal, sys
from pathlib import Path
from mask2edge.benchmarks.results_table import append_rows

how, path = sys.argv[1], Path(sys.argv[2])
columns, rows = ("one", "two"), [{"one": "b", "two": 1}, {"one": "c", "two": 2}]
states = {"one\\na\\n": 0, "one,two\\na,\\nb,1\\nc,2\\n": 0}  # before, after

def stop():
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt

for step in range(10_000):
    path.write_text("one\\na\\n")
    child = os.fork()
    if not child:
        left = step
        def trace(frame, event, argument):
            global left
            if frame.f_globals["__name__"].partition(".")[0] not in ("mask2edge", "contextlib"):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    stop()
            return trace
        sys.settrace(trace)
        try:
            append_rows(path, columns, rows)
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    states[path.read_text()] += 1  # KeyError: half a table
    if status == 0:
        break
print(*states.values())
"""


@pytest.mark.parametrize("how", ["SIGKILL", "Ctrl-C"])
def test_a_process_that_is_stopped_at_any_line_leaves_all_rows_or_none(how, tmp_path):
    """At each line of the code in turn, while a table grows by a column and two rows."""
    path = tmp_path / "a.csv"
    done = subprocess.run([sys.executable, "-c", STOPPED, how, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 20
    assert after > 1  # the last step, and those behind the renaming
    for left in tmp_path.glob(".a-*.csv"):
        left.unlink()
    append_rows(path, ("one", "two"), [{"one": "d", "two": 3}])
    assert read_rows(path)[-1] == {"one": "d", "two": "3"}
