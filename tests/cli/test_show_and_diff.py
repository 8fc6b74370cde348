"""`densebench show` and `densebench diff` on the command line."""

from __future__ import annotations

import json

import command_line
import pytest
from made_records import write
from test_widths import on_terminal
from tiers import late


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "results", "pixels:16", {(1, None): 5.0})
    write(tmp_path / "more", "pixels:8", {(1, None): 6.0})
    return tmp_path


BOTH = ("--results", "results", "--results", "more")


def test_show_prints_a_record(folder):
    done = command_line.call("show", "pixels:16", folder=folder)
    assert done.status == 0
    assert done.out.startswith("pixels:16 on scenes, incontext/hummingbird v1\n")
    assert json.loads(command_line.call("show", "pixels:8", *BOTH, "--json", folder=folder).out)["backbone"]["spec"] == "pixels:8"


def test_diff_answers_with_status_0(folder):
    done = command_line.call("diff", "pixels:16", "pixels:8", *BOTH, folder=folder)
    assert done.status == 0
    assert done.out.splitlines()[-1].strip().startswith("The numbers of A and B may be compared")
    write(folder / "more", "limited", {(1, None): 6.0}, limit=3)
    done = command_line.call("diff", "pixels:16", "limited", *BOTH, "--json", folder=folder)
    assert done.status == 0
    assert json.loads(done.out)["comparable"] is False


@pytest.mark.parametrize("words", [("show", "pixls:16"), ("diff", "pixels:16", "pixls:16")], ids=" ".join)
def test_an_unknown_record_gives_a_line(folder, words):
    assert "unknown record 'pixls:16': did you mean 'pixels:16'" in command_line.call(*words, folder=folder).error


@pytest.mark.parametrize("words", late([("show", "pixels:16"), ("diff", "pixels:16", "pixels:8", *BOTH)]), ids=" ".join)
def test_no_line_is_wider_than_a_narrow_terminal(folder, words):
    lines = on_terminal(folder, 60, *words)
    assert len(lines) > 10
    assert max(map(len, lines)) <= 60
