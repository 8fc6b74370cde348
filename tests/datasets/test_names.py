"""Whatever a backbone, a data set or a class is called: tables keep their shape, cells are no formulas, curves show the name."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from made_records import header
from read_page import Page
from tiers import late

from densebench.cli import main
from densebench.console import notice, one_line, progress
from densebench.errors import UserError
from densebench.evaluation.run import evaluate
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard, render
from densebench.results.report import report
from densebench.results.score import Score
from densebench.results.summary import summary
from densebench.results.texts import csv_text

BREAKS = ["a\nb", "a\r\nb", "a\rb", "a\x0bb", "a\x0cb", "a\x1b[2Jb", "a\x00b", "a\x85b", "a\u2028b", "a\tb"]


def write(results, name, value=40.0, dataset="scenes", **more):
    record = records.open_or_create(results, header(name, dataset=dataset))
    scores = [
        Score("miou", "identity", value + n, axes={"fraction": n, "seed": None}, direction="higher", **more) for n in (8, 1)
    ]
    record.add(scores)
    record.finish("complete", {})
    return record


def curve(results):
    """The texts of the one curve of a report."""
    return [text for tag, text in Page(report(results)).texts if tag == "text"]


def test_one_line_leaves_what_is_no_control_character():
    assert one_line("ViT-S/14 ± 3, μ 中 \N{SMILE}") == "ViT-S/14 ± 3, μ 中 \N{SMILE}"


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_in_a_name_is_refused_where_it_is_given(name, tmp_path):
    with pytest.raises(UserError, match="--name .* holds a line break or another control character; leave it out"):
        evaluate("pixels:8", "incontext", "scenes", name=name, results=tmp_path)
    assert not list(tmp_path.iterdir())


IN_RECORDS = [name for name in BREAKS if "\0" not in name]  # which no record can hold


@pytest.mark.parametrize("name", late(IN_RECORDS, "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\tb"))
@pytest.mark.parametrize("format", ["md", "csv", "tex", "html"])
def test_a_break_in_a_record_does_not_break_a_table(name, format, tmp_path):
    write(tmp_path / "plain", "plain")
    write(tmp_path / "broken", name, dataset=f"folder:{name}")
    plain, broken = (render(leaderboard(tmp_path / folder), format) for folder in ("plain", "broken"))
    assert len(broken.splitlines()) == len(plain.splitlines())
    assert not set(broken) & set("\r\x00\x1b\t")


def test_a_break_in_the_name_of_a_class_does_not_break_the_report(tmp_path):
    write(tmp_path, "a", per_class={"cat\ndog": 40.0})
    assert "cat dog" in Page(report(tmp_path)).cells


def test_a_break_in_an_axis_does_not_break_the_head_of_a_table(tmp_path):
    write(tmp_path, "a").add([Score("miou", "identity", 1.0, axes={"K\n1": "x\ny"}, direction="higher")])
    assert "| K 1 x y |" in render(leaderboard(tmp_path), "md")


def test_the_printed_summary_and_notices_do_not_steer_a_terminal(tmp_path, capsys):
    assert "\x1b" not in summary(write(tmp_path, "a\x1b[2Jb").json())
    notice("left out: a\x1b[2J\nb")
    with progress("features of a\x1b[2Jb", 1) as bar:
        bar.advance()
    said = capsys.readouterr().err
    assert "\x1b" not in said and len(said.splitlines()) == 2


def test_an_error_is_one_line_whatever_it_names(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["densebench", "leaderboard", "--results", "no\nsuch\x1b[2J"])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr().err
    assert (done.value.code, len(said.splitlines()), "\x1b" in said) == (2, 1, False)


@pytest.mark.parametrize("name", ['=HYPERLINK("http://example.com","x")', "+1+cmd", "-2+3+cmd", "@SUM(A1)"])
def test_a_name_is_no_formula_in_csv(name, tmp_path):
    write(tmp_path, name)
    [row, _] = csv.DictReader(io.StringIO(render(leaderboard(tmp_path), "csv")))
    assert row["name"] == row["spec"] == f"'{name}"


def test_numbers_stay_numbers_in_csv():
    frame = pd.DataFrame({"number": [-1.5, 2.0], "text": ["-1.5", "+2e-3"], "=head": [1, 2], "none": [None, "-x"]})
    assert csv_text(frame).splitlines() == ["number,text,'=head,none", "-1.5,-1.5,1,", "2.0,+2e-3,2,'-x"]


def test_a_negative_score_stays_a_number_in_csv(tmp_path):
    score = Score("gain", "plain", -2.5, "dB", axes={"fraction": 1, "seed": None}, direction="higher", digits=1)
    write(tmp_path, "a").add([score])
    rows = list(csv.DictReader(io.StringIO(render(leaderboard(tmp_path), "csv"))))
    assert "-2.5" in [row["value"] for row in rows]


@pytest.mark.parametrize("name", ["$_$", "$x$", "a$b", r"$\frac$", "a_b^c", "50 % & more", "_hidden"])
def test_a_curve_shows_names_as_they_are(name, tmp_path):
    write(tmp_path, name)
    write(tmp_path, "other", 30.0)
    assert {name, "other"} <= {*curve(tmp_path)}


def test_a_curve_shows_a_unit_as_it_is(tmp_path):
    header = write(tmp_path, "a")
    scores = [
        Score("miou", "identity", n, "$_$", axes={"fraction": n, "seed": None}, direction="higher", digits=0) for n in (8, 1)
    ]
    header.add(scores)
    assert "mIoU in $_$" in curve(tmp_path)
