"""The state of a cell follows from files: what was noted, who holds its lock, and what its work left."""

from __future__ import annotations

import json

import made_records
import pytest
from toy_cells import toy, words, written

from densebench.tables.carrying_out import carry_out
from densebench.tables.cells import Cell
from densebench.tables.states import states


def evaluation(folder, weights=None):
    request = {"model": "random:vit", "weights": weights, "results": str(folder.results)}
    return Cell("e1", "evaluation", "vit, incontext, scenes", ("densebench", "eval"), request)


def scored(folder, cell, *, points=((1, 0), (8, 0)), **facts):
    """Write a record of two points, and note that the cell is done by it."""
    record = made_records.write(folder.results, "random:vit", dict.fromkeys(points, 50.0))
    noted = [{"fraction": fraction, "seed": seed} for fraction, seed in ((1, 0), (8, 0))]
    folder.note(cell, {"state": "done", "started": "now", "record": record.id, "points": noted, "files": {}, **facts})
    return record


def word(folder, cell):
    [state] = states([cell], folder)
    return state.word


def test_a_record_with_all_points_makes_a_cell_done(folder):
    cell = evaluation(folder)
    assert word(folder, cell) == "waiting"
    scored(folder, cell)
    assert word(folder, cell) == "done"


def test_a_note_without_its_record_makes_nothing_done(folder):
    cell = evaluation(folder)
    scored(folder, cell).path.unlink()
    assert word(folder, cell) == "waiting"


def test_a_record_that_lacks_a_point_makes_nothing_done(folder):
    cell = evaluation(folder)
    scored(folder, cell, points=((1, 0),))
    assert word(folder, cell) == "waiting"


def test_a_record_that_is_not_complete_makes_nothing_done(folder):
    cell = evaluation(folder)
    record = scored(folder, cell)
    record.path.write_text(record.path.read_text().replace('"complete"', '"failed"'))
    assert word(folder, cell) == "waiting"


def test_other_weights_under_the_same_name_are_scored_again(folder, tmp_path):
    weights = tmp_path / "vit.pth"
    weights.write_bytes(b"one")
    cell = evaluation(folder, str(weights))
    about = weights.stat()
    scored(folder, cell, files={str(weights): [about.st_size, about.st_mtime_ns]})
    assert word(folder, cell) == "done"
    weights.write_bytes(b"other")
    assert word(folder, cell) == "waiting"


def test_a_pretraining_is_done_when_its_run_is_finished(folder, tmp_path):
    cell = Cell("p1", "pretrain", "dino", (), {"output": str(tmp_path / "run")})
    backbone, about = tmp_path / "run" / "backbone.safetensors", tmp_path / "run" / "checkpoint.json"
    backbone.parent.mkdir()
    backbone.write_bytes(b"weights")
    stamp = backbone.stat()
    folder.note(cell, {"state": "done", "started": "now", "files": {str(backbone): [stamp.st_size, stamp.st_mtime_ns]}})
    about.write_text(json.dumps({"finished": False}))
    assert word(folder, cell) == "waiting"
    about.write_text(json.dumps({"finished": True}))
    assert word(folder, cell) == "done"
    backbone.write_bytes(b"those of another run")
    assert word(folder, cell) == "waiting"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": "a"}', '{"id": "a", "state": "perfect", "started": ""}'])
def test_a_broken_note_counts_as_none(folder, text):
    cell = toy(folder, "a")
    folder.note(cell, {"state": "failed", "started": "now", "problem": "why"})
    assert word(folder, cell) == "failed"
    folder.note_path(cell).write_text(text)
    assert word(folder, cell) == "waiting"


def test_who_holds_the_lock_runs_the_cell_and_nobody_else_does(folder):
    cell = toy(folder, "a")
    with folder.holding(cell) as is_mine:
        assert is_mine
        assert word(folder, cell) == "running"
        carry_out(cell, folder)
    assert written(folder) == {}
    carry_out(cell, folder)
    carry_out(cell, folder)
    assert written(folder) == {"a": 1}
    assert word(folder, cell) == "done"


def test_what_needs_a_failed_cell_is_blocked_and_says_by_what(folder):
    cells = [toy(folder, "c", needs=("b",)), toy(folder, "b", needs=("a",)), toy(folder, "a", "fail"), toy(folder, "d")]
    carry_out(cells[2], folder)
    found = states(cells, folder)
    assert words(found) == {"c": "blocked", "b": "blocked", "a": "failed", "d": "waiting"}
    assert [state.about for state in found] == [
        "needs cell b", "needs cell a", "the weights are of another architecture; give others", "",
    ]  # fmt: skip


def test_a_failure_says_whether_the_user_can_mend_it(folder, capfd):
    for name, does in (("a", "fail"), ("b", "crash")):
        carry_out(toy(folder, name, does), folder)
    notes = [folder.noted(toy(folder, name)) for name in "ab"]
    assert [(note["problem"], note["users"]) for note in notes] == [
        ("the weights are of another architecture; give others", True), ("ValueError: an odd value", False),
    ]  # fmt: skip
    assert capfd.readouterr().err.count("Traceback") == 1  # of what the user cannot mend


def test_a_cell_that_failed_is_done_after_it_is_mended(folder):
    cell = toy(folder, "a", "fail")
    carry_out(cell, folder)
    carry_out(toy(folder, "a"), folder)
    [state] = states([cell], folder)
    assert (state.word, state.about, "problem" in state.json()) == ("done", "", False)


def test_a_process_that_died_leaves_an_interrupted_cell_and_each_death_counts(folder):
    cell = toy(folder, "a", "fail")
    folder.note(cell, {"state": "running", "started": "now", "died": 1})  # nobody holds the lock
    [state] = states([cell], folder)
    assert (state.word, state.about) == ("interrupted", "its process died 2 times (killed, or out of memory)")
    assert state.json()["died"] == 2
    with folder.holding(cell):
        assert states([cell], folder)[0].json()["died"] == 1
    carry_out(cell, folder)
    assert folder.noted(cell)["died"] == 2
