"""The shipped tables and their list."""

from __future__ import annotations

import json

import command_line
import pytest
from table_files import SMALL

from densebench.errors import UserError
from densebench.tables import shipped as shipped_tables
from densebench.tables.table_file import read_table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of tables with three shipped ones."""
    (tmp_path / "shipped").mkdir()
    for name in ("neco-10", "neco-8", "cribo-1"):
        (tmp_path / "shipped" / f"{name}.toml").write_text(SMALL.replace("Two networks", name))
    (tmp_path / "shipped" / "README.md").write_text("no table")
    monkeypatch.setattr(shipped_tables, "files", lambda package: tmp_path)
    return tmp_path


def test_shipped_tables_are_listed_with_their_titles_in_natural_order(folder):
    assert list(shipped_tables.shipped().items()) == [
        ("cribo-1", "cribo-1 on drawn scenes"),
        ("neco-8", "neco-8 on drawn scenes"),
        ("neco-10", "neco-10 on drawn scenes"),
    ]


def test_a_shipped_table_is_read_by_its_name(folder):
    table = read_table("neco-8")
    assert (table.name, table.title, table.file) == ("neco-8", "neco-8 on drawn scenes", None)


def test_an_unknown_name_offers_the_nearest(folder):
    with pytest.raises(UserError, match="unknown table 'neco-9': did you mean 'neco-8'?"):
        read_table("neco-9")


def test_ls_lists_them(folder, tmp_path):
    assert "neco-10  neco-10 on drawn scenes" in command_line.call("ls", "tables", folder=tmp_path).out
    listed = json.loads(command_line.call("ls", "tables", "--json", folder=tmp_path).out)
    assert [row["name"] for row in listed["tables"]] == ["cribo-1", "neco-8", "neco-10"]


def test_every_shipped_table_can_be_read():
    for name in shipped_tables.shipped():
        assert read_table(name).title
