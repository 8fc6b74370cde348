"""The command of a record, as a page may show it to everybody."""

from __future__ import annotations

import shlex

import pytest
from made_records import miou, write

from densebench.results.commands import command_of, remark_on
from densebench.results.leaderboard import leaderboard


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/ann/w/x.pth", ".../x.pth"),
        ("ckpt:/home/ann/run", "ckpt:.../run"),
        ("--weights=~/w/x.pth", "--weights=.../x.pth"),
        (r"C:\Users\ann\x.pth", ".../x.pth"),
        ("ckpt:C:/Users/ann/run", "ckpt:.../run"),
        ("file:///home/ann/x.pth", "file:.../x.pth"),
        ("//server/share/x.pth", ".../x.pth"),
        ("a/b.pth,/home/ann/My Folder/c.pth", "a/b.pth,.../c.pth"),
        ("folder:/home/ann/data?labels=/home/ann/l", "folder:.../data?labels=.../l"),
        ("https://ann:secret@host/a/b.pth", "https://host/a/b.pth"),
        ("https://host/a/b.pth", "https://host/a/b.pth"),
        ("data/weights/x.pth", "data/weights/x.pth"),
        ("../weights/x.pth", "../weights/x.pth"),
        ("ViT-S/14 (a/b)", "ViT-S/14 (a/b)"),
        ("1/128", "1/128"),
    ],
)
def test_private_folders_and_secrets_are_left_out(word, shown):
    command = command_of({"run": {"command": shlex.join(["densebench", "eval", word])}})
    assert shlex.split(command) == ["densebench", "eval", shown]


@pytest.mark.parametrize("run", [{}, {"command": ""}, {"command": "densebench eval 'not closed"}])
def test_nothing_is_made_up_where_a_record_holds_no_command(run):
    assert command_of({"run": run}) == ""


def test_a_command_of_a_part_is_said_to_be_one():
    points = [miou(1.0, fraction=fraction).json() for fraction in (1, 8, 64)]
    record = {"run": {"command": "densebench eval --fractions 8", "scored_points": 1}, "scores": points}
    assert "scored 1 of 3 points" in remark_on(record)
    assert remark_on({**record, "scores": points[:1]}) == ""


def test_it_is_said_what_dots_stand_for():
    assert "folder" in remark_on({"run": {"command": "densebench eval --weights /home/ann/x.pth"}, "scores": []})


def test_rows_hold_the_records_that_they_show_and_their_commands(tmp_path):
    ids = {}
    for name, value in (("worse", 1.0), ("better", 2.0), ("unknown", 0.5)):
        record = write(tmp_path, name, {(1, None): value})
        record.finish("complete", {} if name == "unknown" else {"command": f"densebench eval --name {name}"})
        ids[name] = record.id
    board = leaderboard(tmp_path)
    [table] = board.tables
    assert table.cells.backbone.tolist() == ["better", "worse", "unknown"]
    assert "hold no command, since they were made from Python: unknown." in board.render("html")
    assert table.records == (ids["better"], ids["worse"], ids["unknown"])
    assert table.commands == ("densebench eval --name better", "densebench eval --name worse", "")
    [some] = leaderboard(tmp_path, backbone="worse").tables
    assert (some.records, some.commands) == ((ids["worse"],), ("densebench eval --name worse",))
