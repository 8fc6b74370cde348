"""The point that ranks go by: the one that the protocol names, wherever it stands among the columns."""

from __future__ import annotations

import json

import pytest
from made_records import header, miou

from densebench.datasets import load_dataset
from densebench.evals.correspondence import Correspondence
from densebench.evaluation.headline import headline_points
from densebench.results import record as records
from densebench.results.differing import diff
from densebench.results.leaderboard import leaderboard
from densebench.results.result import Result
from densebench.results.score import decides

DATA = load_dataset("scenes-keypoints")
VALUES = {"a": {0.05: 10.0, 0.1: 40.0, 0.2: 50.0}, "b": {0.05: 20.0, 0.1: 30.0, 0.2: 60.0}}


def write(folder, decides=None, without=()):
    found = {}
    for name, values in VALUES.items():
        about = header(name)
        if decides:
            about["protocol"]["decides"] = decides
        record = records.open_or_create(folder, about)
        points = {alpha: value for alpha, value in values.items() if (name, alpha) not in without}
        record.add([miou(v, alpha=alpha, bootstrap=[v] * 10) for alpha, v in points.items()])
        record.finish("complete", {})
        found[name] = record.path
    return found


def test_ranks_go_by_the_point_that_the_protocol_names(tmp_path):
    write(tmp_path, {"alpha": 0.1})
    [table] = leaderboard(tmp_path).tables
    assert table.cells.backbone.tolist() == ["a", "b"]
    assert "95 % at alpha 0.1" in table.cells


def test_without_one_they_go_by_the_last(tmp_path):
    write(tmp_path)
    [table] = leaderboard(tmp_path).tables
    assert table.cells.backbone.tolist() == ["b", "a"]


def test_where_a_backbone_lacks_the_named_point_they_go_by_the_last_that_all_have(tmp_path):
    write(tmp_path, {"alpha": 0.1}, without=[("a", 0.1)])
    [table] = leaderboard(tmp_path).tables
    assert "95 % at alpha 0.2" in table.cells


def test_the_value_of_a_result_is_at_the_named_point(tmp_path):
    path = write(tmp_path, {"alpha": 0.1})["a"]
    assert Result([json.loads(path.read_text())]).value == 40.0


def test_two_records_are_compared_at_the_named_point(tmp_path):
    paths = write(tmp_path, {"alpha": 0.1})
    assert "at alpha 0.1" in diff(*paths.values()).sentence


@pytest.mark.parametrize(
    ("named", "axes", "expected"),
    [
        ({}, {"alpha": 0.2}, True),
        ({"alpha": 0.2}, {"alpha": 0.2}, True),
        ({"alpha": 0.1}, {"alpha": 0.2}, False),
        ({"K": 1}, {}, False),
    ],
)
def test_a_point_decides_if_it_has_the_named_axes(named, axes, expected):
    assert decides({"decides": named}, axes) is expected


def test_the_headline_of_a_run_is_at_the_named_point():
    assert headline_points(Correspondence(), DATA) == [(("alpha", 0.1),)]


def test_a_named_point_that_is_not_asked_for_leaves_the_first():
    assert headline_points(Correspondence(alphas=(0.3, 0.4)), DATA) == [(("alpha", 0.3),)]
