"""Leaderboards: means, spreads, ranks, groups, formats."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest

from densebench import records
from densebench.errors import UserError
from densebench.leaderboard import leaderboard, render
from densebench.published import load_published
from densebench.ranking import ranks, separable
from densebench.records import Score


def header(name, settings, limit, preset, dataset):
    return {
        "backbone": {"spec": name, "digest": name, "arch": "vit", "dim": 4, "stride": 16, "layer": "last", "pos_embed": "plain"},
        "protocol": {
            "name": "incontext",
            "preset": preset,
            "version": 1,
            "settings": {"neighbours": [30], "image_size": 224, **settings},
            "headline": {"metric": "miou", "variant": "identity"},
        },
        "dataset": {"name": dataset, "split": "val", "images": 64, "digest": "abc", "limit": limit},
    }


def write(results, name, values, settings=None, limit=None, replicates=None, preset="hummingbird", dataset="scenes"):
    """A record of values {(fraction, seed): mIoU}."""
    record = records.open_or_create(results, header(name, settings or {}, limit, preset, dataset))
    for (fraction, seed), value in values.items():
        axes = {"fraction": fraction, "seed": seed}
        drawn = tuple(replicates) if replicates is not None else ()
        record.add([
            Score("miou", "hungarian", value + 1, axes=axes),
            Score("miou", "identity", value, axes=axes, bootstrap=drawn, ci95=(value - 1, value + 1)),
        ])  # fmt: skip
    record.finish("complete", {})
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
    assert separable(first, second)
    assert ranks([51.0, 50.0], [first, second]) == [1, 2]


def test_independent_noise_shares_a_rank():
    rng = np.random.default_rng(0)
    first, second = rng.normal(51, 3, 1000), rng.normal(50, 3, 1000)
    assert separable(first, second) is False
    assert ranks([50.0, 51.0, 10.0], [second, first, rng.normal(10, 1, 1000)]) == [1, 1, 3]


def test_ranks_are_compared_with_the_leader_not_with_the_neighbour():
    steps = np.linspace(-3, 3, 1000)
    values = [10.0, 8.0, 6.0]  # each differs from the next by less than the noise, the first from the last by more
    noise = [steps, steps[::-1] * 0.5, steps * 0.1]
    replicates = [value + wave for value, wave in zip(values, noise, strict=True)]
    assert separable(replicates[0], replicates[1]) is False
    assert separable(replicates[1], replicates[2])
    assert ranks(values, replicates) == [1, 1, 3]


def test_without_replicates_only_equal_values_share():
    assert ranks([5.0, 7.0, 7.0, 6.9], [None] * 4) == [4, 1, 1, 3]


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


def test_published_counts():
    numbers = load_published()
    assert len(numbers) == 1153
    counted = numbers.groupby("paper").size()
    assert counted["cribo"] == 96 + 44 + 44 + 50 + 6 + 44 + 12
    assert counted["croc"] == 39 + 8 + 39 + 36 + 24 + 24
    assert counted["flsl"] == 72 + 21 + 6 + 27 + 7 + 5
    assert counted["dip"] == 12
    assert counted["open-hummingbird"] == 18
    row = numbers[(numbers.protocol == "knn-cribo") & (numbers.dataset == "voc") & (numbers.method == "CrIBo")]
    best = row[(row.backbone == "ViT-S/16") & (row.setting == "fraction=1/1") & (row.pretrain_data == "IN1K")]
    assert best.value.tolist() == ["72.1"]
