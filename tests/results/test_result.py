"""What `evaluate` returns: frame, headline, value, tables, curve, and how it shows itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from command_line import call
from made_records import header, miou, write
from matplotlib import pyplot

import densebench
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard
from densebench.results.result import Failure, Result
from densebench.results.score import Score

POINTS = {(1, None): 50.0, (8, 0): 30.0, (8, 1): 34.0}
HOSTILE = "<script>$a_1</script>|"


@pytest.fixture(autouse=True)
def closed():
    """No figure stays open after a test."""
    yield
    pyplot.close("all")


def result(folder, *names, values=POINTS, **more):
    """The result of records of these backbones with the same values."""
    return Result([write(folder, name, values, **more).json() for name in names])


def made(folder, scores, **more):
    """The result of one record of these scores."""
    record = records.open_or_create(folder, header("a", **more))
    record.add(scores)
    return Result([record.json()])


def test_the_frame_has_a_row_for_each_score_with_the_values_of_the_record(tmp_path):
    whole = result(tmp_path, "a", replicates=[49.0, 51.0])
    scores = whole.records[0]["scores"]
    frame = whole.frame
    expected = [(score["variant"], score["fraction"], score["seed"], score["value"]) for score in scores]
    rows = frame[["variant", "fraction", "seed", "value"]].astype(object)
    assert list(rows.where(rows.notna(), None).itertuples(index=False, name=None)) == expected
    assert set(frame.record) == {whole.records[0]["id"]} and set(frame.backbone) == {"a"}


def test_the_frame_holds_no_blobs(tmp_path):
    score = Score("miou", "identity", 50.0, bootstrap=(1.0,) * 1000, per_class={"cat": 50.0}, direction="higher")
    frame = made(tmp_path, [score]).frame
    assert all(np.isscalar(cell) or cell is None for row in frame.to_numpy().tolist() for cell in row)
    assert frame.map(lambda cell: len(str(cell)) < 100).all().all()


def test_the_frame_has_the_interval_of_each_score(tmp_path):
    scores = [Score("miou", "identity", 50.0, ci95=(45.0, 56.0), direction="higher"), miou(51, "hungarian")]
    frame = made(tmp_path, scores).frame.set_index("variant")
    assert frame.loc["identity", ["low", "high"]].tolist() == [45, 56]
    assert frame.loc["hungarian", ["low", "high"]].isna().all()


def test_axes_that_were_swept_are_columns_and_others_are_not(tmp_path):
    scores = [miou(10.0, K=k, seed=0) for k in (21, 300)]
    frame = made(tmp_path, scores, protocol="kmeans", preset="leopart").frame
    assert frame.K.tolist() == [21, 300] and "fraction" not in frame


def test_records_with_a_limit_are_in_the_frame_and_their_table_does_not_compare(tmp_path):
    limited = result(tmp_path, "a", limit=4)
    assert limited.frame.limit.tolist() == [4] * 6
    assert limited.table.caption.endswith("at most 4 of each split, not comparable with published numbers")


def test_the_headline_is_what_tables_show(tmp_path):
    headline = result(tmp_path, "a").headline
    assert set(headline.variant) == {"identity"} and sorted(headline.value) == [30, 34, 50]


@pytest.mark.parametrize(("values", "expected"), [(POINTS, 50), ({(8, 0): 30.0, (8, 1): 34.0, (64, 0): 99.0}, 32)])
def test_the_value_is_at_the_largest_share_the_mean_over_seeds(tmp_path, values, expected):
    assert result(tmp_path, "a", values=values).value == result(tmp_path, "a", values=values).miou == expected


def test_there_is_no_single_value_of_several_records(tmp_path):
    with pytest.raises(UserError, match=r"2 records, so no single value; result.headline has a row for each"):
        _ = result(tmp_path, "a", "b").value


def test_miou_names_the_metric_that_is_another_one(tmp_path):
    error = Score("rmse", "plain", 0.25, "m", direction="lower", digits=2)
    other = made(tmp_path, [error], protocol="depth", headline=("rmse", "plain"))
    assert other.value == 0.25
    with pytest.raises(UserError, match="the headline is rmse, not miou"):
        _ = other.miou


def test_the_table_is_that_of_the_leaderboard(tmp_path):
    ours, [theirs] = result(tmp_path, "a", "b").table, leaderboard(tmp_path).tables
    assert ours.caption == theirs.caption
    pd.testing.assert_frame_equal(ours.cells, theirs.cells)
    assert str(ours) in leaderboard(tmp_path).render("md")


def test_several_data_sets_are_several_tables(tmp_path):
    both = Result([write(tmp_path, "a", POINTS, dataset=dataset).json() for dataset in ("scenes", "voc")])
    assert [" on scenes " in table.caption for table in both.tables] == [True, False]
    with pytest.raises(UserError, match="there are 2 tables"):
        _ = both.table


def test_a_notebook_shows_every_text_escaped(tmp_path):
    error = UserError("no <b>file</b>")
    shown = Result(result(tmp_path, HOSTILE).records, [Failure("<i>x</i>", "scenes", "incontext", error)])._repr_html_()
    assert "&lt;script&gt;$a_1&lt;/script&gt;|" in shown and "no &lt;b&gt;file&lt;/b&gt;" in shown
    assert not any(tag in shown for tag in ("<script>", "<i>", "<b>file"))


def test_a_curve_has_a_line_for_each_backbone_and_a_point_for_each_share(tmp_path):
    axes = result(tmp_path, HOSTILE, "b").plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [HOSTILE, "b"]
    for line in axes.lines[:1]:
        assert line.get_xdata().tolist() == [1 / 8, 1] and line.get_ydata().tolist() == [32, 50]
    assert axes.get_ylabel() == "mIoU in %" and [text.get_text() for text in axes.get_xticklabels()] == ["1/8", "1/1"]


def test_the_band_of_a_curve_is_the_interval_of_the_table(tmp_path):
    rng = np.random.default_rng(0)
    scores = [miou(30.0 + seed, fraction=f, seed=seed, bootstrap=rng.normal(30, 3, 500)) for f in (1, 8) for seed in (0, 1)]
    drawn = made(tmp_path, scores)
    [band] = drawn.plot().collections
    [ends] = [path.vertices[path.vertices[:, 0] == 1][:, 1] for path in band.get_paths()]
    low, high = map(float, drawn.table.cells["95 % at 1/1"][0].split(" to "))
    assert (ends.min(), ends.max()) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))


def test_a_curve_is_drawn_into_given_axes(tmp_path):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert result(tmp_path, "a").plot(axes) is axes and axes.lines


def test_one_point_makes_no_curve(tmp_path):
    with pytest.raises(UserError, match="there is one point, and a curve takes several"):
        result(tmp_path, "a", values={(1, None): 50.0}).plot()


def test_it_prints_as_the_command_does(tmp_path, monkeypatch):
    words = ["--fractions", "1,2", "--seeds", "2", "--limit", "4", "--backbone", "pixels:16", "--backbone", "pixels:8"]
    done = call("eval", "--protocol", "incontext", "--dataset", "scenes", *words, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    again = densebench.evaluate(["pixels:16", "pixels:8"], "incontext", "scenes", fractions=(1, 2), seeds=2, limit=4)
    assert f"{again}\n" == done.out
    assert again.records == [
        json.loads((tmp_path / "results" / "records" / f"{r['id']}.json").read_text()) for r in again.records
    ]


def test_a_dry_run_has_a_plan_and_no_scores(tmp_path):
    planned = densebench.evaluate("pixels:16", "incontext", "scenes", dry_run=True, fractions=(1, 8), results=tmp_path)
    assert str(planned).splitlines()[0] == "fraction 1" and len(planned.records[0]["points"]) == 6
    assert planned.frame.empty and planned.headline.empty and planned.tables == [] and "fraction 1" in planned._repr_html_()
    with pytest.raises(UserError, match="nothing was scored in this dry run"):
        _ = planned.value


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_its_repr_is_one_short_line(tmp_path, names):
    text = repr(result(tmp_path, *names))
    assert len(text) < 100 and "\n" not in text
    assert "incontext/hummingbird" in text
