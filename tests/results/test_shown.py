"""A leaderboard shows itself: in notebooks, printed, and on terminals of any width."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from made_records import header, miou, write
from read_page import Page
from rich.console import Console

from densebench.results.leaderboard import leaderboard
from densebench.results.record import open_or_create
from densebench.results.tables import Leaderboard, Table

NUMBERS = re.compile(r"\d+\.\d")


def rendered(board, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(board)
    return console.file.getvalue()


@pytest.fixture
def board(tmp_path):
    """One table of two backbones with long names at seven fractions, and two protocols on one data set."""
    fractions = (1, 2, 4, 8, 16, 32, 64)
    for index, name in enumerate(("a backbone with a name of many words", "timm:vit_small_patch16_224.dino_in1k")):
        values = {(f, seed): 50.0 + index - f / 10 + seed for f in fractions for seed in range(2)}
        backbone = {"pos_embed": "antialias", "dim": 384}
        write(tmp_path, name, values, **backbone)
        write(tmp_path, name, {(1, None): 7.0 + index}, protocol="kmeans", preset="croc", **backbone)
    return leaderboard(tmp_path)


def test_printed_elsewhere_than_on_a_terminal_it_is_markdown(board, capsys):
    print(board)
    assert capsys.readouterr().out == board.render("md")


def test_its_repr_is_short(board):
    assert repr(board) == "<Leaderboard: 3 tables, 2 backbones, 4 records>"


def test_a_notebook_gets_tables_in_which_everything_is_escaped(tmp_path):
    name = '<script>alert("&")</script>'
    write(tmp_path, name, {(1, None): 61.24})
    write(tmp_path, "worse", {(1, None): 6.0})
    html = leaderboard(tmp_path)._repr_html_()
    assert name in Page(html).cells
    assert "<script>" not in html
    assert "<b>61.2</b>" in html
    assert "<html" not in html and "<style" not in html


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(board, width):
    text = rendered(board, width)
    assert max(map(len, text.splitlines())) <= width
    for table in board.all_tables:
        values = [cell for column in table.cells.columns[1:] for cell in table.cells[column] if NUMBERS.search(cell)]
        assert all(text.count(value) >= values.count(value) for value in values)


def test_the_least_needed_columns_go_first_and_are_named(board):
    wide, narrow = rendered(board, 250), rendered(board, 80)
    assert "stride" in wide
    assert "also shows" not in wide
    assert "(a wider terminal also shows width, stride, positions)" in narrow


def test_a_column_that_tells_rows_apart_stays():
    rows = [{"backbone": "one name for both", "width": "4", "stride": "16", "layer": layer} for layer in ("last", "key")]
    cells = pd.DataFrame([row | {f"column {i}": "50.0 ± 1.0" for i in range(4)} for row in rows])
    text = rendered(Leaderboard(pd.DataFrame(), [Table("by hand", cells, cells.map(lambda _: False))]), 50)
    assert "(a wider terminal also shows width, stride)" in text
    assert len(re.findall(r"\b(last|key)\b", text)) >= 2


def test_the_rows_are_named_again_in_every_part(board):
    parts = [line for line in rendered(board, 60).splitlines() if line.startswith("rank")]
    assert len(parts) > 2
    assert all("backbone" in line for line in parts)


def test_the_best_value_is_bold_on_a_terminal_and_has_a_star_elsewhere(tmp_path):
    write(tmp_path, "worse", {(1, None): 40.0})
    write(tmp_path, "better", {(1, None): 60.0})
    board = leaderboard(tmp_path)
    assert "60.0*" in rendered(board, 80)
    assert "40.0 " in rendered(board, 80)
    terminal = Console(width=80, force_terminal=True, color_system="standard", _environ={"TERM": "xterm"})
    with terminal.capture() as capture:
        terminal.print(board)
    bold = re.findall(r"\x1b\[1m([^\x1b]*)\x1b\[0m", capture.get())
    assert [text.strip() for text in bold[-1:]] == ["60.0"]
    assert "60.0*" not in capture.get()


def test_markup_in_a_name_is_text(tmp_path):
    head = header("timm:vit")
    head["backbone"]["name"] = "[red]mine[/red] [link=x]"
    record = open_or_create(tmp_path, head)
    record.add([miou(10.0, fraction=1, seed=None)])
    record.finish("complete", {})
    assert "[red]mine[/red] [link=x]" in rendered(leaderboard(tmp_path), 80)


@pytest.mark.parametrize("width", [60, 80])
def test_words_are_whole_and_blank_columns_go_where_there_is_little_room(tmp_path, width):
    write(tmp_path, "a", {(1, None): 10.0}, dataset="voc")
    text = rendered(leaderboard(tmp_path, published=True), width)
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"^Hummingbird  ViT-B/16 +neco Table 8 ", text, re.MULTILINE)
    assert "pretraining" not in text


def test_a_part_has_no_rows_without_values(tmp_path):
    for k in range(100, 800, 100):
        write(tmp_path, "everything", {(k, None): 1.0})
    write(tmp_path, "only the first", {(700, None): 1.0})
    first, *others = rendered(leaderboard(tmp_path), 60).split("\n\n")
    assert "only the first" in first
    assert others
    assert not any("only the first" in part for part in others)
