"""The page of a table's work: states, scores, failures, and what links lead to."""

import re
import time

import pytest
from made_records import write
from toy_cells import toy

from densebench.tables.cells import Cell
from densebench.tables.page import LivePage, write_page
from densebench.tables.states import TableFolder, states

STARTED = "2026-01-02T03:04:05Z"


@pytest.fixture
def folder(tmp_path):
    return TableFolder(tmp_path / "results", "table")


def noted(folder, *does):
    """Return toy cells, each with a note that says how it ended."""
    cells = [toy(folder, f"{number}") for number in range(len(does))]
    for cell, state in zip(cells, does, strict=True):
        output = folder.results / f"{cell.id}.txt"
        if state == "done":
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
        if state != "waiting":
            about = {"outputs": [str(output)], "problem": f"why {cell.id}"}
            folder.note(cell, {"state": state, "started": STARTED, "seconds": 60.0, **about})
    return cells


def page(folder, cells, title="A table"):
    return write_page(title, states(cells, folder), folder).read_text(encoding="utf-8")


def test_it_counts_the_cells_of_each_state(folder):
    text = page(folder, noted(folder, "done", "done", "failed", "waiting"))
    assert re.findall(r'<li><span class="state \w+">(\d+ \w+)</span>', text) == ["2 done", "1 failed", "1 waiting"]
    assert "<dt>cells done</dt><dd>2 of 4</dd>" in text


def test_a_failed_cell_shows_why_and_the_end_of_its_log(folder):
    cells = noted(folder, "failed")
    log = folder.jobs / "a" / "0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(f"line {number} <b>" for number in range(100)))
    folder.note(cells[0], {"state": "failed", "started": STARTED, "problem": "no such file", "log": str(log)})
    text = page(folder, cells)
    assert "no such file" in text
    assert "line 99 &lt;b&gt;" in text
    assert "line 80" not in text
    assert 'href="jobs/a/0_log.err"' in text


@pytest.mark.parametrize("through_link", [False, True])
def test_a_note_cannot_put_another_file_into_the_page(folder, tmp_path, through_link):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    cells, log = noted(folder, "failed"), secret
    if through_link:
        folder.jobs.mkdir(parents=True)
        log = folder.jobs / "log.err"
        log.symlink_to(secret)
    folder.note(cells[0], {"state": "failed", "started": STARTED, "log": str(log)})
    assert "a secret" not in page(folder, cells)


def test_it_renews_itself_only_while_a_cell_runs(folder):
    cells = noted(folder, "failed", "waiting")
    assert 'http-equiv="refresh"' not in page(folder, cells)
    with folder.holding(cells[1]):
        folder.note(cells[1], {"state": "running", "started": STARTED, "host": "h", "scored": 1, "total": 4})
        text = page(folder, cells)
    assert 'http-equiv="refresh"' in text
    assert "1 of 4 points" in text


def test_the_time_left_is_that_of_cells_that_are_done(folder):
    text = page(folder, noted(folder, "done", "waiting", "waiting"))
    assert "<dt>estimated time left</dt><dd>2:00</dd>" in text


def test_without_a_cell_that_is_done_the_time_left_is_not_known(folder):
    assert "about left" not in page(folder, noted(folder, "failed", "waiting"))


def test_names_are_escaped(folder):
    evil = "</script><script>alert(1)</script>"
    cell = Cell("1", "evaluation", evil, ("densebench", evil), {"model": evil}, backbone=evil, dataset=evil, protocol=evil)
    folder.note(cell, {"state": "failed", "started": evil, "problem": evil, "host": evil})
    text = page(folder, [cell], evil)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def evaluation(folder, values):
    """Return an evaluation that is done, with its record of values {(fraction, seed): mIoU}, and the id of the record."""
    identity = write(folder.results, "net", values).id
    cell = Cell("1", "evaluation", "net, incontext", ("densebench",), {}, backbone="net", dataset="scenes", protocol="incontext")
    points = [{"fraction": fraction, "seed": seed} for fraction, seed in values]
    folder.note(cell, {"state": "done", "started": STARTED, "record": identity, "points": points})
    return cell, identity


def shown(text):
    """Return the points and values of the table of evaluations, and what they link to."""
    return re.findall(r'<span class="point">(.*?)</span><a href="(.*?)"[^>]*>(.*?)</a>', text)


def test_a_cell_that_is_done_shows_means_over_seeds_that_link_to_the_record(folder):
    cell, identity = evaluation(folder, {(1, None): 40.0, (8, 0): 20.0, (8, 1): 30.0})
    href = f"../../records/{identity}.json"
    assert shown(page(folder, [cell])) == [("1/8", href, "25.0"), ("1/1", href, "40.0")]
    assert (folder.path / href).is_file()


def test_a_run_with_a_page_is_linked(folder, tmp_path):
    output = tmp_path / "runs" / "a run"
    output.mkdir(parents=True)
    cell = Cell("1", "pretrain", "a run", ("densebench",), {"output": str(output)})
    assert 'href="../../../runs/a%20run">run folder<' in page(folder, [cell])
    (output / "index.html").touch()
    assert 'href="../../../runs/a%20run/index.html">page of the run<' in page(folder, [cell])


def test_a_live_page_follows_the_states_but_not_every_look(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cells, live = noted(folder, "failed", "waiting"), LivePage("A table", folder)
    live.show(states(cells, folder))
    live.path.unlink()
    now[0] += 5
    live.show(states(cells, folder))
    assert not live.path.exists()  # nothing has changed
    folder.note(cells[1], {"state": "failed", "started": STARTED})
    live.show(states(cells, folder))
    assert "2 failed" in live.path.read_text()


def test_a_page_that_cannot_be_written_warns_once_and_stops_nothing(folder, capsys):
    cells, live = noted(folder, "failed"), LivePage("A table", folder)
    live.path.mkdir(parents=True)
    assert not live.write(states(cells, folder))
    live.write(states(cells, folder))
    assert capsys.readouterr().err.count("cannot be written") == 1
