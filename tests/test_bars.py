"""Progress: bars on a terminal and in a notebook, plain lines elsewhere, and nothing where it is not wanted."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from screen import on_screen

from densebench import console
from densebench.console import Line, notice, progress, warn
from densebench.training.logs import Ticker

WAIT = 0.25  # seconds after which a bar is shown


class Terminal:
    """What was written to stderr, as on a terminal."""

    def __init__(self, capsys):
        self.capsys, self.text = capsys, ""

    def getvalue(self):
        self.text += self.capsys.readouterr().err
        return self.text

    @property
    def lines(self):
        return on_screen(self.getvalue())


@pytest.fixture
def terminal(monkeypatch, capsys):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal(capsys)


def test_a_pipe_has_a_closing_line(capsys):
    with progress("features", 2) as bar:
        bar.advance()
        bar.advance()
    assert capsys.readouterr().err == "features: 2/2 images in 0:00\n"


def test_a_pipe_has_a_line_every_ten_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("features", 8) as bar:
        for _ in range(8):
            now[0] += 4
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "features: 3/8 images, 0.2/s, 0:20 left",
        "features: 6/8 images, 0.2/s, 0:08 left",
        "features: 8/8 images in 0:32",
    ]


def test_a_total_that_nobody_knows_is_not_told(capsys):
    with progress("fetch a.zip", 0, "MB") as bar:
        bar.advance(7)
    assert capsys.readouterr().err == "fetch a.zip: 7 MB in 0:00\n"


def test_a_loop_that_did_nothing_says_nothing(capsys):
    with progress("features", 0):
        pass
    assert capsys.readouterr().err == ""


def test_a_loop_that_fails_says_how_far_it_came(capsys):
    with pytest.raises(ValueError, match="x"), progress("features", 8) as bar:
        bar.advance(3)
        raise ValueError("x")
    assert capsys.readouterr().err == "features: 3/8 images in 0:00\n"


def test_threads_count_together():
    with progress("features", 8000) as bar, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [bar.advance() for _ in range(1000)], range(8)))
    assert bar.done == 8000


def test_a_terminal_shows_a_bar_and_keeps_the_closing_line_alone(terminal):
    with progress("features", 4) as bar:
        bar.advance()
        time.sleep(WAIT)
        bar.advance()
        [line] = terminal.lines
        assert line.startswith("|██████████          | features: 2/4 images, ")
        bar.advance(2)
    assert terminal.lines == ["features: 4/4 images in 0:00"]


def test_messages_stand_above_the_bar(terminal):
    with progress("features", 4) as bar:
        time.sleep(WAIT)
        bar.advance()
        notice("a notice")
        warn("a warning")
        assert terminal.lines[:2] == ["a notice", "a warning"]
        assert "features: 1/4" in terminal.lines[2]
    assert terminal.lines == ["a notice", "a warning", "features: 1/4 images in 0:00"]


def test_a_bar_says_what_it_is_about_before_the_first_step(terminal):
    ticker = Ticker(3, 8, 8)
    notice("a notice")
    assert terminal.lines[1].endswith("| step 3/8")
    ticker.close()
    assert terminal.lines == ["a notice"]


def test_a_bar_in_a_loop_with_a_bar_leaves_the_outer_one(terminal):
    with progress("outer", 4) as outer:
        time.sleep(WAIT)
        outer.advance()
        with progress("inner", 2) as inner:
            time.sleep(WAIT)
            inner.advance()
            assert ["outer" in line for line in terminal.lines] == [True, False]
            assert "inner: 1/2" in terminal.lines[1]
        outer.advance()
    assert terminal.lines == ["inner: 1/2 images in 0:00", "outer: 2/4 images in 0:01"]


def test_a_failure_takes_all_bars_off_the_terminal(terminal):
    with pytest.raises(ValueError, match="x"), progress("outer", 4) as outer, progress("inner", 4) as inner:
        time.sleep(WAIT)
        outer.advance()
        inner.advance()
        raise ValueError("x")
    assert terminal.lines == ["inner: 1/4 images in 0:00", "outer: 1/4 images in 0:00"]


@pytest.mark.parametrize(
    "quiet",
    [
        lambda patch: patch.setenv("DENSEBENCH_QUIET", "1"),
        lambda patch: patch.setenv("RANK", "1"),
        lambda patch: patch.setattr(logging.getLogger("densebench"), "level", logging.WARNING),
        lambda patch: patch.setattr(logging.root.manager, "disable", logging.INFO),
    ],
    ids=["environment", "another process", "level", "disabled"],
)
def test_there_is_no_bar_where_none_is_wanted(quiet, terminal, monkeypatch):
    quiet(monkeypatch)
    with progress("features", 4) as bar:
        time.sleep(WAIT)
        bar.advance()
    assert terminal.getvalue() == ""


def test_a_terminal_that_cannot_move_has_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with progress("features", 4) as bar:
        time.sleep(WAIT)
        bar.advance()
    assert terminal.getvalue() == "features: 1/4 images in 0:00\n"


def test_a_notebook_has_a_bar_of_text_where_it_has_no_widgets(capsys, monkeypatch):
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with progress("features", 2) as bar:
        time.sleep(2 * WAIT + 0.1)
        bar.advance()
    said = capsys.readouterr().err
    assert "|█████     | features: 1/2 images" in said
    assert said.endswith("\rfeatures: 1/2 images in 0:01\n")


def test_a_run_in_a_pipe_ends_with_its_last_step(capsys):
    ticker = Ticker(0, 2, 8)
    ticker.show(1, 0, {"loss": 2.5})
    ticker.show(2, 1, {"loss": 1.25})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("step 2/2, epoch 1: loss 1.250, ") and line.endswith(" images/s, 0:00 left")


@pytest.mark.parametrize("steps", [4, 8])  # it is finished, or it is stopped half-way
def test_a_run_in_a_pipe_says_its_last_line_once(capsys, monkeypatch, steps):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    ticker = Ticker(0, steps, 8)
    for step in (2, 4):
        now[0] += 12
        ticker.show(step, 0, {"loss": 2.5})
    ticker.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step 2/{steps}", f"step 4/{steps}"]


def test_a_run_that_is_stopped_says_where(terminal):
    ticker = Ticker(0, 8, 8)
    time.sleep(WAIT)
    ticker.show(4, 0, {"loss": 2.5})
    assert terminal.lines[0].startswith("|██████████          | step 4/8, epoch 0: loss 2.500, ")
    ticker.close()
    ticker.close()
    [line] = terminal.lines
    assert line.startswith("step 4/8, epoch 0: loss 2.500, ")


def test_a_line_does_not_steer_the_terminal(terminal):
    line = Line(2)
    time.sleep(WAIT)
    line.show(1, "a\x1b[2Jb\nc")
    assert "\x1b[2J" not in terminal.getvalue() and "a [2Jb c" in terminal.lines[0]
    line.close()


def test_nothing_heavy_is_imported_before_the_first_bar():
    code = "import sys, densebench.cli; print(sorted({'tqdm', 'torch', 'filelock'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_real_notebook_shows_bars_and_messages_and_no_warning():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    code = """
import time, warnings
warnings.simplefilter("error")
from densebench.console import notice, progress
with progress("features", 4) as bar:
    for step in range(4):
        time.sleep(0.6)
        bar.advance()
        if step == 1:
            notice("in between")
"""
    cell = nbformat.v4.new_code_cell(code)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel and its client
        nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    shown = "".join(output.text for output in cell.outputs)
    assert {output.name for output in cell.outputs} == {"stderr"}
    assert "features: 2/4 images, " in shown
    assert on_screen(shown) == ["in between", "features: 4/4 images in 0:02"]
