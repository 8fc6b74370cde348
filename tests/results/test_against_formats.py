"""A paper's table with measured numbers in every format, on the command line and in Python."""

from __future__ import annotations

import csv
import io
import json

import pytest
from published_records import numbers, record
from read_page import Page
from typer.testing import CliRunner

import densebench
from densebench.cli import app
from densebench.errors import UserError


@pytest.fixture
def results(tmp_path):
    """A results folder of two backbones, one of which is off, and one with other settings; and a file of published numbers."""
    made = [
        record(values={(("fraction", 1), ("seed", None)): 47.0, (("fraction", 8), ("seed", 0)): 30.0}),
        record("MAE ViT-B/16", changed={"image_size": 224}),
        record("mine | 50 %", 20.0),
    ]
    (tmp_path / "records").mkdir()
    for each in made:
        each |= {"code": {}, "environment": {}}
        (tmp_path / "records" / f"{each['id']}.json").write_text(json.dumps(each))
    numbers(
        tmp_path / "mine.csv",
        {"value": "47.9"},
        {"value": "30.1", "setting": "fraction=1/8"},
        {"value": "12.3", "method": "MAE", "backbone": "ViT-B/16"},
        {"value": "20.0", "dataset": "ade20k"},
    )
    return tmp_path


def board(results, **more):
    return densebench.leaderboard(results, against="neco:99", published=results / "mine.csv", **more)


def test_markdown(results):
    lines = board(results).render("md").splitlines()
    assert lines[0] == (
        "**neco Table 99, published beside measured: incontext-hummingbird, mIoU in %, higher is better; "
        "2 of 4 numbers measured**"
    )
    assert lines[2] == "| method | backbone | params | voc 1/1 | voc 1/8 | ade20k 1/1 |"
    assert lines[4] == r"| DINO | ViT-S/16 | 21M | **47.9 \| 47.0 \| -0.9 !** | 30.1 \| 30.0 \| -0.1 [a] | 20.0 |"
    assert lines[5] == "| MAE | ViT-B/16 | 21M | 12.3 [b] |  |  |"
    assert lines[6] == r"| mine \| 50 % (not in the paper) |  |  | - \| 20.0 \| - |  |  |"
    assert lines[-1] == "[b] measured with image_size=224 (the preset: 512)"
    assert any("off by more than 0.5 points" in line for line in lines)


def test_csv_has_a_row_for_each_cell(results):
    rows = list(csv.DictReader(io.StringIO(board(results).render("csv"))))
    first, other = rows[0], rows[-1]
    assert [first[name] for name in ("published", "measured", "difference", "off")] == ["47.9", "47.0", "-0.9", "True"]
    assert float(first["low"]) == pytest.approx(46.9) and float(first["high"]) == pytest.approx(47.1)
    assert (results / "records" / f"{first['record']}.json").is_file()
    assert (other["method"], other["in_paper"], other["published"], other["measured"]) == ("mine | 50 %", "False", "", "20.0")
    assert [row["footnotes"] for row in rows if row["method"] == "MAE"] == ["measured with image_size=224 (the preset: 512)"]


def test_latex(results):
    text = board(results).render("tex")
    assert r"\multicolumn{3}{l}{} & \multicolumn{2}{l}{voc} & \multicolumn{1}{l}{ade20k} \\" in text
    assert r"method & backbone & params & 1/1 & 1/8 & 1/1 \\" in text
    assert r"DINO & ViT-S/16 & 21M & \textbf{47.9 $|$ 47.0 $|$ -0.9 !}" in text
    assert r"mine $|$ 50 \% (not in the paper)" in text
    assert r"\par [b] measured with image\_size=224 (the preset: 512)" in text


@pytest.mark.parametrize(
    "make", [lambda board: board.render("html"), lambda board: board._repr_html_()], ids=["page", "notebook"]
)
def test_html(results, make):
    page = Page(make(board(results)))
    assert page.of("colspan") == ["3", "2", "1"]
    assert ("strong", "47.9 | 47.0 | -0.9 !") in page.texts or ("b", "47.9 | 47.0 | -0.9 !") in page.texts
    assert ("p", "[b] measured with image_size=224 (the preset: 512)") in page.texts
    assert ("th", "voc") in page.texts and "mine | 50 % (not in the paper)" in page.cells


def test_where_nothing_is_measured_the_papers_numbers_stand_alone(tmp_path):
    board = densebench.leaderboard(tmp_path / "nothing", against="neco:6")
    assert board.tables[0].cells["voc K=21"].tolist() == ["12.2", "17.8", "41.3", "55.1"]
    assert repr(board) == "<Leaderboard: 1 table, 0 backbones, 0 records>"
    assert all(board.render(format) for format in ("md", "csv", "tex", "html"))


def test_terminal(results):
    shown = str(board(results))
    assert "47.9" in shown and "image_size=224" in shown


@pytest.mark.parametrize("width", [60, 200])
def test_narrow_and_wide_terminals_show_every_number_and_footnote(results, width):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(board(results))
    shown = " ".join(stream.getvalue().split())
    assert all(text in shown for text in ("47.9 | 47.0 | -0.9 ! ", "30.1 | 30.0 | -0.1 [a]", "- | 20.0 | -", "(the preset: 512)"))
    assert "!*" not in shown


def test_only_the_backbones_that_are_asked_for_are_measured(results):
    rows = board(results, backbone="DINO*").comparison
    assert rows.measured.notna().sum() == 2 and "mine | 50 %" not in set(rows.method)
    assert board(results, dataset="voc", protocol="incontext/neco").comparison.equals(board(results).comparison)


def test_costs_have_no_column(results):
    with pytest.raises(UserError, match="leave out costs or against"):
        board(results, costs=True)


def call(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_the_command_shows_the_same(results):
    words = ["leaderboard", "--results", results, "--against", "neco:99", "--published", results / "mine.csv", "--format", "md"]
    done = call(*words)
    assert (done.exit_code, done.stdout) == (0, board(results).render("md"))
    written = call(*words, "--output", results / "table.md")
    assert written.exit_code == 0 and (results / "table.md").read_text() == done.stdout
    assert call(*words, "--output", results / "table.md", "--check").exit_code == 0


@pytest.mark.parametrize("command", ["leaderboard", "report"])
@pytest.mark.parametrize("at", ["end", "middle", "file"])
def test_published_is_a_switch_that_a_file_may_follow(results, command, at):
    output = ["--output", results / "page.html", *(["--format", "html"] if command == "leaderboard" else [])]
    words = {
        "end": [*output, "--published"],
        "middle": ["--published", *output],
        "file": ["--published", results / "mine.csv", *output],
    }[at]
    done = call(command, "--results", results, *words)
    assert done.exit_code == 0, done.output
    text = (results / "page.html").read_text()
    assert "published, not measured here" in text
    assert ("neco Table 99" in text) == (at == "file")
    assert "neco Table 8" in text


def test_an_unknown_table_is_one_line(results):
    error = call("leaderboard", "--results", results, "--against", "neco:77").exception
    assert isinstance(error, UserError) and "unknown table 'neco:77': did you mean 'neco:7'" in str(error)
