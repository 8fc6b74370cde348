"""The formats of a leaderboard, published numbers beside it, and `--check`."""

from __future__ import annotations

import csv
import io

import pytest
from made_records import write
from read_page import Page
from tiers import late
from typer.testing import CliRunner

from densebench import catalog
from densebench.cli import app
from densebench.errors import UserError
from densebench.results.leaderboard import leaderboard, render


def test_formats_show_the_same_numbers(tmp_path):
    write(tmp_path, "timm:vit_tiny <a&b> 50%", {(1, None): 61.24, (8, 0): 50.0, (8, 1): 54.0})
    write(tmp_path, "worse", {(1, None): 6.24, (8, 0): 5.0, (8, 1): 5.0})
    board = leaderboard(tmp_path)
    markdown, latex, html, tidy = (render(board, name) for name in ("md", "tex", "html", "csv"))
    assert "| **52.0 ± 2.8** | **61.2** |" in markdown
    assert r"timm:vit\_tiny <a\&b> 50\%" in latex
    assert r"\textbf{52.0 $\pm$ 2.8} & \textbf{61.2}" in latex
    assert {"timm:vit_tiny <a&b> 50%", "52.0 ± 2.8", "61.2"} <= set(Page(html).cells)
    rows = list(csv.DictReader(io.StringIO(tidy)))
    assert [(row["variant"], row["fraction"], float(row["value"])) for row in rows[:2]] == [
        ("hungarian", "1", 62.24),
        ("identity", "1", 61.24),
    ]
    assert render(leaderboard(tmp_path), "html") == html
    with pytest.raises(UserError, match="did you mean 'html'"):
        render(board, "htm")


def test_published_numbers_stand_apart(tmp_path):
    write(tmp_path, "a", {(1, None): 10.0}, dataset="voc")
    board = leaderboard(tmp_path, published=True)
    assert len(board.tables) == 1
    [table] = board.published_tables
    assert table.caption.startswith("published, not measured here: incontext-hummingbird on voc")
    row = table.cells[(table.cells.method == "CrIBo") & (table.cells.backbone == "ViT-S/16")].iloc[0]
    assert row[["1/128", "1/64", "1/8", "1/1"]].tolist() == ["53.9", "59.9", "66.9", "71.2"]
    assert "CrIBo" not in render(leaderboard(tmp_path), "md")
    tidy = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    assert [row["source"] for row in tidy] == ["measured"] * 2 + ["published"] * (len(tidy) - 2)


def test_a_protocol_that_cannot_be_imported_hides_no_published_numbers(tmp_path, monkeypatch):
    write(tmp_path, "a", {(1, None): 10.0}, dataset="voc")
    write(tmp_path, "a", {(1, None): 10.0}, dataset="voc", protocol="kmeans", preset="croc")
    load = catalog.load

    def broken(kind, name, preset=None):
        if name == "kmeans":
            raise UserError("kmeans fails on import")
        return load(kind, name, preset)

    monkeypatch.setattr(catalog, "load", broken)
    [table] = leaderboard(tmp_path, published=True).published_tables
    assert "incontext-hummingbird on voc" in table.caption


def test_where_nothing_is_published_it_is_said(tmp_path, capsys):
    write(tmp_path, "a", {(1, None): 10.0}, dataset="scenes")
    assert leaderboard(tmp_path, published=True).published_tables == []
    assert "no published number goes with incontext/hummingbird on scenes" in capsys.readouterr().err


@pytest.mark.parametrize("format", late(["md", "csv", "tex", "html"], "md"))
def test_check_tells_a_stale_file(tmp_path, format):
    results, file = tmp_path / "results", tmp_path / "board"
    write(results, "a", {(1, None): 10.0})
    words = ["leaderboard", "--results", str(results), "--format", format, "--output", str(file)]

    def call(*more):
        return CliRunner().invoke(app, [*words, *more])

    missing = call("--check")
    assert (missing.exit_code, missing.output.count("\n")) == (1, 1)
    assert not file.exists()
    assert call().exit_code == 0
    written = file.read_bytes()
    assert (call("--check").exit_code, call("--check").output) == (0, "")
    if format != "html":  # a page in a file has links to the records beside it
        assert CliRunner().invoke(app, words[:-2]).output.encode() == written
    write(results, "b", {(1, None): 20.0})
    stale = call("--check")
    assert stale.exit_code == 1
    assert str(file) in stale.output
    assert file.read_bytes() == written
    file.write_bytes(b"\xff")
    assert call("--check").exit_code == 1


def test_check_needs_a_file(tmp_path):
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path), "--check"])
    assert isinstance(done.exception, UserError)
    assert "--output FILE" in str(done.exception)
