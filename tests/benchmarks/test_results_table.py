"""results_table.py: rows, tables that grow, and files that are of another table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.benchmarks.results_table import append_row, read_rows
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
