"""Leaderboards: means, spreads, ranks, groups, formats."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from made_records import BACKBONE, DATASET, PROTOCOL
from typer.testing import CliRunner

from densebench.cli import app
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard, render
from densebench.results.ranking import lead, ranks
from densebench.results.score import Score


def header(name, settings, limit, preset, dataset):
    return {
        "backbone": {
            **BACKBONE,
            "spec": name,
            "digest": name,
            "arch": "vit",
            "dim": 4,
            "stride": 16,
            "layer": "last",
            "pos_embed": "plain",
        },
        "protocol": {
            **PROTOCOL,
            "name": "incontext",
            "preset": preset,
            "version": 1,
            "settings": {"neighbours": [30], "image_size": 224, **settings},
            "headline": {"metric": "miou", "variant": "identity"},
        },
        "dataset": {**DATASET, "name": dataset, "split": "val", "images": 64, "digest": "abc", "limit": limit},
    }


def write(
    results, name, values, settings=None, limit=None, replicates=None, preset="hummingbird", dataset="scenes", status="complete"
):
    """A record of values {(fraction, seed): mIoU}."""
    record = records.open_or_create(results, header(name, settings or {}, limit, preset, dataset))
    for (fraction, seed), value in values.items():
        axes = {"fraction": fraction, "seed": seed}
        drawn = tuple(replicates) if replicates is not None else ()
        record.add([
            Score("miou", "hungarian", value + 1, axes=axes, direction="higher"),
            Score("miou", "identity", value, axes=axes, bootstrap=drawn, ci95=(value - 1, value + 1), direction="higher"),
        ])  # fmt: skip
    record.finish(status, {})
    return record


def test_mean_and_spread_by_hand(tmp_path):
    write(tmp_path, "a", {(1, None): 61.24, (8, 0): 50.0, (8, 1): 54.0, (64, 0): 20.0})
    [table] = leaderboard(tmp_path).tables
    assert list(table.cells.columns) == ["rank", "backbone", "width", "stride", "positions", "1/64", "1/8", "1/1", "95 % at 1/1"]
    row = table.cells.iloc[0]
    assert (row["1/64"], row["1/8"], row["1/1"]) == ("20.0", "52.0 ± 2.8", "61.2")  # sqrt(8) over n - 1 = 1
    assert "identity mIoU" in table.caption


def test_rows_stand_by_value_and_the_best_are_marked(tmp_path):
    write(tmp_path, "worse", {(1, None): 40.0, (8, 0): 39.0})
    write(tmp_path, "better", {(1, None): 60.0, (8, 0): 30.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["better", "worse"]
    assert table.cells["rank"].tolist() == ["1", "2"]
    assert table.best["1/1"].tolist() == [True, False]
    assert table.best["1/8"].tolist() == [False, True]


def test_a_paired_difference_separates_what_intervals_do_not():
    rng = np.random.default_rng(0)
    shared = rng.normal(50, 3, 1000)
    first, second = shared + rng.normal(1, 0.1, 1000), shared
    assert np.quantile(first, 0.025) < np.quantile(second, 0.975)  # the intervals overlap
    assert (lead(first, second), lead(second, first)) == (1, -1)
    assert ranks([51.0, 50.0], [first, second], "higher") == [1, 2]


def test_independent_noise_shares_a_rank():
    rng = np.random.default_rng(0)
    first, second = rng.normal(51, 3, 1000), rng.normal(50, 3, 1000)
    assert lead(first, second) == 0
    assert ranks([50.0, 51.0, 10.0], [second, first, rng.normal(10, 1, 1000)], "higher") == [1, 1, 3]


def test_a_rank_counts_who_is_separably_better():
    """The first and the second are not separable, the second and the third are: comparing with the first alone, which is not
    separable from the third either, would give them one rank."""
    steps = np.linspace(-3, 3, 1000)
    values = [10.0, 9.0, 8.0]
    replicates = [10 + steps, 9 + 0 * steps, 8 + 0 * steps]
    assert [lead(replicates[i], replicates[j]) for i, j in ((0, 1), (1, 2), (0, 2))] == [0, 1, 0]
    assert ranks(values, replicates, "higher") == [1, 1, 2]


def test_without_replicates_only_equal_values_share():
    assert ranks([5.0, 7.0, 7.0, 6.9], [None] * 4, "higher") == [4, 1, 1, 3]


def test_rows_stand_by_rank_and_then_by_value(tmp_path):
    steps = np.linspace(-3, 3, 1000)
    write(tmp_path, "middle", {(1, None): 9.0}, replicates=9 + 0 * steps)
    write(tmp_path, "unsure", {(1, None): 8.5}, replicates=8.5 + steps)
    write(tmp_path, "best", {(1, None): 10.0}, replicates=10 + 0 * steps)
    [table] = leaderboard(tmp_path).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "best"], ["1", "unsure"], ["2", "middle"]]
    assert table.best["1/1"].tolist() == [True, False, False]


def test_limited_records_never_enter(tmp_path):
    write(tmp_path, "quick", {(1, None): 99.0}, limit=10)
    with pytest.raises(UserError, match="no record of a whole run"):
        leaderboard(tmp_path)
    write(tmp_path, "whole", {(1, None): 10.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["whole"]


def test_groups_are_kept_apart(tmp_path):
    write(tmp_path, "a", {(1, None): 10.0})
    write(tmp_path, "b", {(1, None): 20.0}, settings={"neighbours": [50]})
    write(tmp_path, "a", {(1, None): 30.0}, dataset="voc")
    tables = leaderboard(tmp_path).tables
    assert [len(table.cells) for table in tables] == [1, 1, 1]
    assert len({table.caption for table in tables}) == 3


def test_what_is_missing_is_blank(tmp_path):
    write(tmp_path, "half", {(1, None): 10.0})
    write(tmp_path, "whole", {(1, None): 20.0, (8, 0): 15.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells.set_index("backbone").loc["half", "1/8"] == ""


def test_a_broken_record_is_left_out_and_said(tmp_path, capsys):
    write(tmp_path, "a", {(1, None): 10.0})
    (tmp_path / "records" / "broken.json").write_text("{")
    assert len(leaderboard(tmp_path).tables) == 1
    assert "broken.json" in capsys.readouterr().err


def test_failed_runs_are_left_out_until_they_are_resumed(tmp_path):
    write(tmp_path, "whole", {(1, None): 10.0})
    failed = write(tmp_path, "failed", {(1, None): 90.0}, status="failed")
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["whole"]
    failed.start({})
    assert leaderboard(tmp_path).tables[0].cells["backbone"].tolist() == ["failed", "whole"]


def test_a_run_that_died_before_its_headline_is_no_table(tmp_path):
    record = records.open_or_create(tmp_path, header("a", {}, None, "hummingbird", "scenes"))
    record.add([Score("miou", "hungarian", 3.0, axes={"fraction": 1, "seed": None}, direction="higher")])
    with pytest.raises(UserError, match="no record of a whole run"):
        leaderboard(tmp_path)
    write(tmp_path, "b", {(1, None): 10.0}, dataset="voc")
    assert len(leaderboard(tmp_path).tables) == 1


def test_without_a_common_column_what_is_missing_has_no_rank(tmp_path):
    write(tmp_path, "whole", {(1, None): 10.0})
    write(tmp_path, "eighth", {(8, 0): 90.0})
    write(tmp_path, "other", {(8, 0): 80.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist()[0] == "whole"
    assert sorted(table.cells["rank"]) == ["", "", "1"]
    assert table.best["1/1"].tolist() == [True, False, False]


def test_ranks_go_by_the_largest_memory_that_all_have(tmp_path):
    write(tmp_path, "first", {(1, None): 10.0, (8, 0): 20.0, (64, 0): 1.0})
    write(tmp_path, "second", {(8, 0): 15.0, (64, 0): 2.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "first"], ["2", "second"]]
    assert table.cells.columns[-1] == "95 % at 1/8"


def test_other_axes_are_columns_and_only_seeds_are_averaged(tmp_path):
    record = records.open_or_create(tmp_path, header("a", {}, None, "clusters", "voc"))
    for k, seed, value in ((300, 0, 50.0), (300, 1, 54.0), (21, 0, 10.0), (21, 1, 12.0), (500, 0, 60.0)):
        record.add([Score("miou", "identity", value, axes={"seed": seed, "K": k}, direction="higher")])
    board = leaderboard(tmp_path)
    row = board.tables[0].cells.iloc[0]
    assert list(row.index[-4:]) == ["K 21", "K 300", "K 500", "95 % at K 500"]
    assert row[["K 21", "K 300", "K 500"]].tolist() == ["11.0 ± 1.4", "52.0 ± 2.8", "60.0"]
    assert sorted(row["K"] for row in csv.DictReader(io.StringIO(render(board, "csv")))) == ["21", "21", "300", "300", "500"]


def test_two_axes_cross(tmp_path):
    record = records.open_or_create(tmp_path, header("a", {}, None, "clusters", "voc"))
    for fraction in (1, 8):
        for k in (500, 21):
            record.add(
                [Score("miou", "identity", k / 10 + fraction, axes={"fraction": fraction, "seed": 0, "K": k}, direction="higher")]
            )
    row = leaderboard(tmp_path).tables[0].cells.iloc[0]
    assert list(row.index[-5:-1]) == ["1/8, K 21", "1/8, K 500", "1/1, K 21", "1/1, K 500"]
    assert row.tolist()[-5:-1] == ["10.1", "58.0", "3.1", "51.0"]


def test_equal_names_are_told_apart_by_their_weights(tmp_path):
    for weights, value in (("1" * 64, 3.0), ("2" * 64, 4.0)):
        head = header("random:vit", {}, None, "hummingbird", "scenes")
        head["backbone"]["digest"] = weights
        records.open_or_create(tmp_path, head).add(
            [Score("miou", "identity", value, axes={"fraction": 1, "seed": None}, direction="higher")]
        )
    [table] = leaderboard(tmp_path).tables
    assert table.cells["weights"].tolist() == ["2" * 8, "1" * 8]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({(8, 0): 1.0, (8, 1): 2.0}, "over 2 to 3 subsets"),
        ({(8, 0): 1.0}, "over 3 subsets"),
        ({(1, None): 1.0}, "over 3 subsets"),
    ],
)
def test_the_caption_counts_subsets(tmp_path, second, said):
    write(tmp_path, "a", {(8, 0): 1.0, (8, 1): 2.0, (8, 2): 3.0, (1, None): 4.0})
    write(tmp_path, "b", second)
    assert said in leaderboard(tmp_path).tables[0].caption


def test_a_caption_without_subsets_speaks_of_none(tmp_path):
    write(tmp_path, "a", {(1, None): 4.0})
    caption = leaderboard(tmp_path).tables[0].caption
    assert "identity mIoU in %, group " in caption
    assert "deviation" not in caption


def test_the_interval_is_of_the_mean_over_seeds(tmp_path):
    record = records.open_or_create(tmp_path, header("a", {}, None, "hummingbird", "scenes"))
    for seed, offset in ((0, 0.0), (1, 10.0)):
        replicates = tuple(np.linspace(20, 60, 41) + offset)  # their mean runs from 25 to 65: 2.5 % of it is 26
        record.add(
            [Score("miou", "identity", 40.0, axes={"fraction": 8, "seed": seed}, bootstrap=replicates, direction="higher")]
        )
    assert leaderboard(tmp_path).tables[0].cells.iloc[0]["95 % at 1/8"] == "26.0 to 64.0"


def test_replicates_without_a_number_are_no_replicates(tmp_path):
    nothing = np.full(10, np.nan)
    assert lead(nothing, nothing) is None
    write(tmp_path, "a", {(1, None): 1.0}, replicates=nothing)
    write(tmp_path, "b", {(1, None): 2.0}, replicates=nothing)
    [table] = leaderboard(tmp_path).tables
    assert table.cells["rank"].tolist() == ["1", "2"]
    assert table.cells["95 % at 1/1"].tolist() == ["", ""]


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "strong", "th", "caption"):
            self.cells.append(data)


def test_formats_show_the_same_numbers(tmp_path):
    write(tmp_path, "timm:vit_tiny <a&b> 50%", {(1, None): 61.24, (8, 0): 50.0, (8, 1): 54.0})
    board = leaderboard(tmp_path)
    markdown, latex, html, tidy = (render(board, name) for name in ("md", "tex", "html", "csv"))
    assert "| **52.0 ± 2.8** | **61.2** |" in markdown
    assert r"timm:vit\_tiny <a\&b> 50\%" in latex
    assert r"\textbf{52.0 $\pm$ 2.8} & \textbf{61.2}" in latex
    parsed = Cells()
    parsed.feed(html)
    assert parsed.open == []
    assert {"timm:vit_tiny <a&b> 50%", "52.0 ± 2.8", "61.2"} <= set(parsed.cells)
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


def test_where_nothing_is_published_it_is_said(tmp_path, capsys):
    write(tmp_path, "a", {(1, None): 10.0}, dataset="scenes")
    assert leaderboard(tmp_path, published=True).published_tables == []
    assert "no published number goes with incontext/hummingbird on scenes" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["md", "csv", "tex", "html"])
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


def test_the_module_is_the_function_too(tmp_path):
    import densebench.results.leaderboard
    from densebench.results import leaderboard as either

    for one in (either, densebench.results.leaderboard):
        with pytest.raises(UserError, match="holds no record"):
            one(tmp_path)
