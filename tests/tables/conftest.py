"""What several tests of this folder share: the folder of a table, and what the cells of a table need."""

import pytest
from table_files import read
from toy_cells import folder

from densebench.tables.cells import Places, cells
from densebench.tables.needs import needs

__all__ = ["folder"]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "results", tmp_path / "runs", tmp_path, tmp_path / "data")


@pytest.fixture
def of(tmp_path, places):
    """A function that returns what the cells of a table need, from the text of its file."""

    def find(text, **given):
        return needs(cells(read(tmp_path, text), places), places, **given)

    return find
