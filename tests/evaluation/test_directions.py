"""Metrics say which values are better, in what unit and with how many decimals, and everything that picks or shows goes by it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from made_records import header
from read_page import Page
from tiers import late_rows
from told_probes import told
from typer.testing import CliRunner

from densebench.cli import app
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard, render
from densebench.results.profiles import profiles
from densebench.results.ranking import ranks
from densebench.results.report import report
from densebench.results.result import Result
from densebench.results.score import Score
from densebench.results.summary import summary
from densebench.training import sweep
from densebench.training.run import Data, train

PLUGIN = """
from dataclasses import dataclass
from densebench.evaluation.protocol import Evaluator
from densebench.results.score import Score

@dataclass(frozen=True)
class Depth(Evaluator):
    version = 1
    presets = {"plain": {}}

    def run(self, backbone, dataset, run):
        yield Score("rmse", "plain", 0.25, "m", MORE)

    def headline(self):
        return {"metric": "rmse", "variant": "plain"}
"""


def rmse(value, **more):
    return Score("rmse", "plain", value, "m", direction="lower", digits=2, **more)


def write(results, name, scores, protocol="depth"):
    """A complete record of a backbone."""
    record = records.open_or_create(
        results,
        header(name, protocol=protocol, preset="plain", headline=(scores[0].metric, scores[0].variant), dataset="rooms"),
    )
    record.add(scores)
    record.finish("complete", {})
    return record


def test_a_score_without_a_direction_is_refused_in_one_line():
    with pytest.raises(UserError, match=r'^the score rmse \(plain\) does not say which values are better; write direction="'):
        Score("rmse", "plain", 0.3, "m", digits=2)


def test_an_unknown_direction_is_refused():
    with pytest.raises(UserError, match="has the direction 'down'"):
        Score("rmse", "plain", 0.3, "m", direction="down", digits=2)


@pytest.mark.parametrize("digits", [None, -1, 10, 1.5, True])
def test_a_unit_other_than_percent_says_how_many_decimals_it_shows(digits):
    with pytest.raises(UserError, match=r"^the score rmse \(plain\) is in m and has digits .*such as digits=3"):
        Score("rmse", "plain", 0.3, "m", direction="lower", digits=digits)


def test_direction_and_digits_are_in_the_record(tmp_path):
    [kept] = write(tmp_path, "a", [rmse(0.375)]).json()["scores"]
    assert (kept["unit"], kept["direction"], kept["digits"]) == ("m", "lower", 2)
    [percent] = write(tmp_path, "b", [Score("miou", "plain", 3.0, direction="higher")]).json()["scores"]
    assert (percent["unit"], percent["direction"], percent["digits"]) == ("%", "higher", 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "down"}, "scores.0.direction 'down': it should be 'higher' or 'lower'"),
        ({"direction": []}, r"scores.0.direction \[\]: it should be 'higher' or 'lower'"),
        ({"digits": "2"}, "scores.0.digits '2': it should be a valid integer"),
        ({"digits": True}, "scores.0.digits True: it should be a valid integer"),
        ({"digits": 99}, "scores.0.digits 99: it should be less than or equal to 9"),
    ],
)
def test_a_record_with_another_direction_or_digits_is_refused(tmp_path, wrong, message):
    record = write(tmp_path, "a", [rmse(0.375)])
    content = record.json()
    content["scores"][0] |= wrong
    record.path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        records.read(record.path)


def test_a_smaller_error_ranks_first_and_is_marked(tmp_path):
    for name, value in (("worse", 0.37), ("better", 0.32), ("worst", 0.4)):
        write(tmp_path, name, [rmse(value)])
    [table] = leaderboard(tmp_path).tables
    assert table.cells[["rank", "backbone", "value"]].to_numpy().tolist() == [
        ["1", "better", "0.32"],
        ["2", "worse", "0.37"],
        ["3", "worst", "0.40"],
    ]
    assert table.best["value"].tolist() == [True, False, False]
    assert "plain rmse in m, lower is better, " in table.caption


def test_ranks_of_an_error_go_by_its_replicates():
    noise = np.linspace(-0.05, 0.05, 1000)
    replicates = [0.30 + noise, 0.31 - noise, 0.50 + noise]
    assert ranks([0.30, 0.31, 0.50], replicates, "lower") == [1, 1, 3]
    assert ranks([0.30, 0.31, 0.50], replicates, "higher") == [2, 2, 1]


def test_spreads_and_intervals_have_the_digits_of_the_score(tmp_path):
    drawn = tuple(np.linspace(0.2, 0.4, 41))
    write(tmp_path, "a", [rmse(value, axes={"seed": seed}, bootstrap=drawn) for seed, value in ((0, 0.3), (1, 0.5))])
    row = leaderboard(tmp_path).tables[0].cells.iloc[0]
    assert (row["value"], row["95 % at value"]) == ("0.40 ± 0.14", "0.20 to 0.40")


def test_a_plain_number_has_no_unit_in_the_caption(tmp_path):
    write(tmp_path, "a", [Score("ratio", "plain", 1.25, "", direction="higher", digits=2)])
    assert ": plain ratio, group" in leaderboard(tmp_path).tables[0].caption


def test_csv_has_the_direction_of_every_score(tmp_path):
    write(tmp_path, "a", [rmse(0.3)])
    head, row = render(leaderboard(tmp_path), "csv").splitlines()
    named = dict(zip(head.split(","), row.split(","), strict=True))
    assert (named["unit"], named["direction"], named["digits"]) == ("m", "lower", "2")


def test_a_profile_marks_the_best_of_each_column_by_its_direction(tmp_path):
    for name, error, overlap in (("a", 0.5, 40.0), ("b", 0.25, 30.0)):
        write(tmp_path, name, [rmse(error)])
        write(tmp_path, name, [Score("miou", "plain", overlap, direction="higher")], "segment")
    [table] = leaderboard(tmp_path).profiles
    assert list(table.cells.columns) == ["backbone", "depth/plain value in m, lower is better", "segment/plain value in %"]
    shown = {row[0]: (row[1:], marks[1:]) for row, marks in table.rows()}
    assert shown == {"a": (["0.50", "40.0"], [False, True]), "b": (["0.25", "30.0"], [True, False])}
    assert table.caption.startswith("profiles on rooms val: headline by protocol; compare within a column only; ")


def test_a_profile_of_errors_says_once_that_lower_is_better():
    row = {
        "spec": "s", "protocol": "depth", "preset": "p", "dataset": "d", "split": "val", "image_size": None, "layer": "last",
        "pos_embed": "none", "headline": True, "point": (), "unit": "m", "direction": "lower", "digits": 2, "partial": False,
        "coverage": "3 images",
    }  # fmt: skip
    rows = [
        {**row, "name": name, "digest": name, "identity": name, "group": group, "value": value}
        for name, value in (("worse", 0.5), ("better", 0.25))
        for group in ("g1", "g2")
    ]
    [table] = profiles(pd.DataFrame(rows))
    assert not any("lower" in name for name in table.cells)
    assert table.caption.startswith("profiles on d val: headline in m by protocol, lower is better;")


def test_a_curve_shows_the_backbones_with_the_smallest_errors(tmp_path, monkeypatch):
    monkeypatch.setattr("densebench.results.report.LINES", 1)
    for name, value in (("worse", 0.5), ("better", 0.25)):
        write(tmp_path, name, [rmse(value, axes={"fraction": fraction, "seed": None}) for fraction in (1, 8)])
    texts = [text for tag, text in Page(report(tmp_path)).texts if tag == "text"]
    assert "better" in texts and "worse" not in texts
    assert "rmse in m, lower is better" in texts


def test_the_classes_of_the_report_go_by_the_direction(tmp_path):
    for name, near, far in (("worse", 0.5, 0.7), ("better", 0.25, 0.8)):
        write(tmp_path, name, [rmse(near, per_class={"near": near, "far": far})])
    text = report(tmp_path)
    page = Page(text)
    assert "rmse in m by class, lower is better, mean over seeds" in text
    start = page.cells.index("class")
    assert page.cells[start : start + 3] == ["class", "better", "worse"]  # the mean is smaller
    assert page.cells[start + 3 : start + 9] == ["near", "0.25", "0.50", "far", "0.80", "0.70"]
    assert [number for tag, number in page.texts if tag == "strong"][-2:] == ["0.25", "0.70"]


def test_the_printed_summary_has_the_unit_and_one_decimal_more_than_tables(tmp_path):
    lines = summary(write(tmp_path, "a", [rmse(0.375)]).json()).splitlines()
    assert lines[0].endswith("depth/plain v1, plain rmse in m, lower is better")
    assert lines[1].split() == ["value", "0.375"]


@pytest.mark.parametrize(("direction", "best"), late_rows([("higher", 9.0), ("lower", 5.0)], ("lower", 5.0)))
def test_a_probe_keeps_the_best_by_the_direction_of_the_score(tmp_path, monkeypatch, direction, best):
    probe = told([7.0, 9.0, 5.0, 8.0], "rmse", "m", direction, 2)
    monkeypatch.setattr("densebench.training.run_folder.Probe", probe)
    small = {"arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "device": "cpu"}
    run = train(
        "dino", data=["scenes"], limit=8, output=tmp_path / "run", epochs=4, probe="scenes", probe_every=1, cache="none",
        out_dim=64, local_crops=1, local_size=16, **small,
    )  # fmt: skip
    assert json.loads((run / "best" / "probe.json").read_text())["rmse"] == best
    assert "probe_rmse" in (run / "log.csv").read_text()


@pytest.mark.parametrize(("direction", "best"), [("higher", "objects=3"), ("lower", "objects=2")])
def test_a_sweep_says_the_best_by_the_direction_of_the_score(tmp_path, monkeypatch, capsys, direction, best):
    values = {"objects=2": 0.25, "objects=3": 0.5, "objects=4": 0.375}

    def evaluate(backbone, protocol, dataset, **_):
        name = backbone.rpartition("/")[2]
        score = Score("rmse", "plain", values[name], "m", direction=direction, digits=3).json()
        return Result([{"protocol": {"headline": {"metric": "rmse", "variant": "plain"}}, "scores": [score]}])

    monkeypatch.setattr(sweep, "evaluate", evaluate)
    monkeypatch.setattr(sweep, "train", lambda *_, **__: None)
    monkeypatch.setattr("densebench.backbones.checkpoint.read_checkpoint", lambda _: {"dataset": "scenes"})
    request = {"output": tmp_path / "grid", "dry_run": False, "data": Data()}
    text = sweep.sweep("cribo", ["objects=2,3,4"], request, {})
    assert f"the best is {best}\n" in capsys.readouterr().err
    assert text.split()[:4] == ["objects", "rmse", "m", "2"] and "0.2500" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("digits=2", "the score rmse (plain) does not say which values are better"),
        ('direction="lower"', "the score rmse (plain) is in m and has digits None"),
    ],
)
def test_a_plug_in_that_does_not_say_is_refused(tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth.py").write_text(PLUGIN.replace("MORE", more))
    words = ["eval", "--protocol", "./depth.py", "--backbone", "pixels:8", "--dataset", "scenes"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)


def test_a_plug_in_that_says_it_is_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth.py").write_text(PLUGIN.replace("MORE", 'direction="lower", digits=2'))
    done = CliRunner().invoke(app, ["eval", "--protocol", "./depth.py", "--backbone", "pixels:8", "--dataset", "scenes"])
    assert done.exit_code == 0
    assert "plain rmse in m, lower is better" in done.stdout
