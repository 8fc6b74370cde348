"""The notebook of the quick start: it runs from top to bottom, and shows what is stored in it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    setting = nbformat.v4.new_code_cell(f"import os; os.environ['DENSEBENCH_CACHE'] = {str(folder / 'cache')!r}")
    notebook.cells.insert(0, setting)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.cells.pop(0)
    return notebook


def shown(cell) -> list[str]:
    """What a cell shows but for progress: its texts and tables, and the word "picture" for a picture."""
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    texts = [output["text"] if "text" in output else output["data"] for output in outputs]
    return [text if isinstance(text, str) else "picture" if "image/png" in text else text["text/html"] for text in texts]


def test_it_shows_what_is_stored_in_it(stored, executed):
    for before, now in zip(stored.cells, executed.cells, strict=True):
        assert shown(now) == shown(before), before["source"]


def test_it_shows_tables_and_pictures(stored):
    everything = [text for cell in stored.cells for text in shown(cell)]
    assert everything.count("picture") == 3
    assert sum("<table" in text for text in everything) >= 3
    assert any(re.fullmatch(r"[\d.]+ % mIoU\n", text) for text in everything)


def test_nothing_of_the_machine_that_ran_it_is_stored(stored):
    assert not re.search(r"/(home|root|tmp|Users)/", nbformat.writes(stored))
