"""Published numbers of another layer, of debiased or upsampled features: they stand beside records of the same alone."""

from __future__ import annotations

import pytest
from published_records import numbers, record

from densebench.results.against import against
from densebench.results.published.number_files import COLUMNS, EVALUATION

WITH_EVALUATION = (*COLUMNS, EVALUATION)


def cell(tmp_path, measured, evaluation):
    file = numbers(tmp_path / "mine.csv", {"value": "47.9", EVALUATION: evaluation}, columns=WITH_EVALUATION)
    [table] = against([measured], "neco:99", published=file).tables
    return table.cells["voc 1/1"][0].partition(" [")[0], " ".join(table.notes)


@pytest.mark.parametrize(
    ("about", "evaluation"),
    [
        ({"layer": "key"}, "layer=key"),
        ({"debias": 20}, "debias=20 of noise"),
        ({"debias": 20, "debias_from": {"kind": "black"}}, "debias=20 of black"),
        ({"upsample": "bilinear"}, "upsample=bilinear"),
        ({"layer": "key", "debias": 5}, "debias=5 of noise;layer=key"),
    ],
)
def test_the_same_features_stand_beside_the_number(tmp_path, about, evaluation):
    assert cell(tmp_path, record(**about), evaluation)[0] == "47.9 | 48.0 | +0.1"


@pytest.mark.parametrize(
    ("about", "evaluation", "reason"),
    [
        ({}, "layer=key", "measured on layer last; the paper's number is of layer key"),
        ({"layer": "key"}, "", "measured on layer key; the paper's number is of the last layer"),
        ({"layer": "value"}, "layer=key", "measured on layer value; the paper's number is of layer key"),
        ({}, "debias=20 of noise", "measured with debias=none (the paper: 20 of noise)"),
        ({"debias": 5}, "debias=20 of noise", "measured with debias=5 of noise (the paper: 20 of noise)"),
        ({"debias": 20}, "debias=20 of black", "measured with debias=20 of noise (the paper: 20 of black)"),
        ({"upsample": "guided"}, "upsample=jafar", "measured with upsample=guided (the paper: jafar)"),
        ({}, "facet=key", "the paper: facet=key, which is no setting"),
    ],
)
def test_other_features_leave_the_cell_empty_and_are_named(tmp_path, about, evaluation, reason):
    text, notes = cell(tmp_path, record(**about), evaluation)
    assert text == "47.9" and reason in notes
