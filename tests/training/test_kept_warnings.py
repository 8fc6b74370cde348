"""The warnings of a run, kept in its folder."""

import pytest

from densebench.console import notice, warn
from densebench.training.kept_warnings import MOST, KeptWarnings, read_warnings


def test_warnings_are_kept_and_still_printed_and_notices_are_not(tmp_path, capsys):
    with KeptWarnings(tmp_path):
        warn("step 3: not finite\nsecond line")
        notice("step 4")
    warn("after the run")
    assert read_warnings(tmp_path) == ["step 3: not finite second line"]
    assert "step 3: not finite" in capsys.readouterr().err


def test_a_run_that_is_resumed_adds_to_them(tmp_path):
    for text in ("first", "second"):
        with KeptWarnings(tmp_path):
            warn(text)
    assert read_warnings(tmp_path) == ["first", "second"]


def test_there_are_never_more_than_some_lines(tmp_path):
    with KeptWarnings(tmp_path):
        for number in range(MOST + 5):
            warn(f"step {number}")
    assert len(read_warnings(tmp_path, 10 * MOST)) == MOST


@pytest.mark.parametrize("place", ["folder", "missing"])
def test_where_they_cannot_be_written_nothing_happens(tmp_path, place):
    if place == "folder":
        (tmp_path / "warnings.txt").mkdir()
    folder = tmp_path if place == "folder" else tmp_path / "gone"
    with KeptWarnings(folder):
        warn("lost")
    assert read_warnings(folder) == []
