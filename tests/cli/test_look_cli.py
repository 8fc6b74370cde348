"""`densebench look` prints a table, writes a page, and says by its status whether a backbone failed."""

from __future__ import annotations

import json

import pytest
from command_line import Terminal, call
from look_pictures import folder_of

SMALL = ("--image-size", 32, "--count", 2, "--clusters", 3, "--device", "cpu")


def test_the_table_is_markdown_in_a_pipe_and_the_page_is_the_last_line(tmp_path):
    folder_of(tmp_path / "photos", 3)
    done = call("look", "photos", "--backbone", "pixels:8", "--backbone", "pixels:4", *SMALL, folder=tmp_path)
    heading, _, first, second, page = done.out.splitlines()
    assert done.status == 0
    assert heading.startswith("| backbone | width | stride | parameters | GFLOP | images/s | memory | effective rank (RankMe) |")
    assert first.startswith("| pixels:8 |")
    assert second.startswith("| pixels:4 |")
    assert page == "look/index.html"
    assert (tmp_path / "look" / "index.html").is_file()
    assert list((tmp_path / "look").glob("*.png"))


def test_a_backbone_that_fails_gives_status_2_and_the_page_is_written(tmp_path):
    folder_of(tmp_path / "photos", 2)
    names = ("--name", "<script>alert(1)</script>", "--name", 'a "quoted" | name')
    words = ("--backbone", "timm:no_such_model", "--backbone", "pixels:8", *names, "--json", "--output", "out")
    done = call("look", "photos", *words, *SMALL, folder=tmp_path)
    table = json.loads(done.out)
    failed, works = table["backbones"]
    assert done.status == 2
    assert failed["problem"].startswith("unknown timm model 'no_such_model'") or "no_such_model" in failed["problem"]
    assert works["figures"]["outlier tokens"]["value"] == 0
    assert table["pictures"] == ["a0.png", "b1.png"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "no_such_model" in page


def test_on_a_terminal_the_table_fits_it(tmp_path):
    folder_of(tmp_path / "photos", 2)
    done = call("look", "photos", "--backbone", "pixels:8", *SMALL, folder=tmp_path, out=Terminal())
    assert done.status == 0
    assert "pixels:8" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("empty", "--backbone", "pixels:8"), "empty holds no image"),
        (("nowhere", "--backbone", "pixels:8"), "unknown data 'nowhere'"),
        (("photos",), "name a backbone: --backbone SPEC"),
        (("photos", "--backbone", "pixels:8", "--images", "c0.png"), "did you mean 'a0.png'?"),
        (("photos", "--backbone", "timm:no_such_model"), "no_such_model"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, words, message):
    folder_of(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    assert message in call("look", *words, folder=tmp_path).error


def test_a_file_holds_options(tmp_path):
    folder_of(tmp_path / "photos", 3)
    (tmp_path / "look.toml").write_text('backbone = ["pixels:8"]\nimages = ["c2.png"]\nimage-size = 64\ndevice = "cpu"\n')
    done = call("look", "photos", "--config", "look.toml", "--json", folder=tmp_path)
    assert json.loads(done.out)["pictures"] == ["c2.png"]


def test_a_folder_that_cannot_be_written_is_refused_before_any_backbone_is_looked_at(tmp_path):
    folder_of(tmp_path / "photos", 2)
    (tmp_path / "notes.txt").write_text("mine")
    done = call("look", "photos", "--backbone", "pixels:8", *SMALL, "--output", "notes.txt", folder=tmp_path)
    assert done.error == "densebench: cannot write in notes.txt: Not a directory; choose another folder"
    assert "look: pixels:8" not in done.err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_may_not_be_opened_is_said_in_one_line(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "photos/private")

    monkeypatch.setattr("densebench.looking.look.look", refused)
    error = call("look", "photos", "--backbone", "pixels:8", folder=tmp_path).error
    assert error == "densebench: cannot open photos/private: Permission denied; check its permissions"


def test_ctrl_c_does_not_say_that_work_is_saved(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("densebench.looking.look.look", stopped)
    done = call("look", "photos", "--backbone", "pixels:8", folder=tmp_path)
    assert (done.status, done.err) == (130, "densebench: stopped; no page was written\n")
