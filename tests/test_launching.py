"""What the user is told of processes that failed, and what failed first."""

from __future__ import annotations

import signal

import pytest

from densebench import launching
from densebench.errors import UserError


def note(time, text, status=1, elsewhere=False):
    return {"time": time, "text": text, "status": status, "elsewhere": elsewhere}


def test_the_first_failure_counts_and_not_what_follows_from_it():
    noted = {0: note(1.0, "left alone", 2, elsewhere=True), 1: note(3.0, "later", 1), 2: note(2.0, "give more\n", 2)}
    assert launching.told(noted, {0: 2, 1: 1, 2: 2}, 3) == ("give more\n", 2)


def test_a_process_that_was_killed_is_named():
    text, status = launching.told({0: note(1.0, "left alone", 2, elsewhere=True)}, {1: -signal.SIGKILL, 0: 2}, 2)
    assert status == 1 and text.count("\n") == 1
    assert "process 1 of 2 was ended by SIGKILL (out of memory?)" in text and "the same call resumes" in text


def test_the_end_of_the_others_by_the_launcher_is_no_news():
    assert launching.told({1: note(1.0, "give less\n", 2)}, {0: -signal.SIGTERM, 1: 2}, 2) == ("give less\n", 2)


def test_what_the_main_process_has_reported_is_not_repeated():
    assert launching.told({}, {0: 2, 1: -signal.SIGTERM}, 2) == ("", 2)


def test_an_end_without_a_word_is_told():
    assert launching.told({}, {1: 3}, 2) == ("densebench: process 1 of 2 ended with status 3\n", 1)


def test_a_failure_is_dated_when_it_is_first_seen(monkeypatch, tmp_path):
    monkeypatch.setenv(launching.NOTES, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    assert launching.note_failure(UserError("give more"))
    [first] = launching.notes(tmp_path).values()
    assert launching.note_failure(UserError("give more"), "densebench: give more\n", 2)
    assert launching.notes(tmp_path) == {1: {**first, "text": "densebench: give more\n", "status": 2}}


def test_nobody_is_told_where_no_launcher_waits(monkeypatch):
    monkeypatch.delenv(launching.NOTES, raising=False)
    assert not launching.note_failure(UserError("give more"))


@pytest.mark.parametrize(
    ("rank", "error", "told"), [("0", UserError, True), ("1", UserError, False), ("0", launching.ElsewhereError, True)]
)
def test_before_they_work_together_the_main_process_speaks_for_all(monkeypatch, rank, error, told):
    monkeypatch.setenv("RANK", rank)
    assert launching.is_told_here(error("no")) == told
