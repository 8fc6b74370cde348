"""An evaluation is scored anew where the data set or the protocol is not what it was."""

from __future__ import annotations

from table_files import BACKBONE, EVALUATION, read
from toy_cells import words

from densebench.tables.carrying_out import carry_out, forget_outdated
from densebench.tables.cells import Places, cells
from densebench.tables.states import states


def test_a_record_of_another_group_is_forgotten_and_one_of_the_same_is_not(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    options = "limit = 4\nseeds = 1\nclusters = [2]\nimage_size = 32\n"
    table = read(tmp_path, BACKBONE + EVALUATION + options)
    [cell] = cells(table, Places(results=folder.results))
    carry_out(cell, folder)
    assert words(states([cell], folder)) == {cell.id: "done"}
    assert folder.noted(cell)["scored"] == folder.noted(cell)["total"] == 1
    assert forget_outdated([cell], folder) == []
    [path] = (folder.results / "records").glob("*.json")
    group = next(line for line in path.read_text().splitlines() if '"group"' in line)
    path.write_text(path.read_text().replace(group, ' "group": "0123abcd",'))
    assert forget_outdated([cell], folder) == [cell]
    assert words(states([cell], folder)) == {cell.id: "waiting"}
