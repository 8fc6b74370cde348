"""Validations in the course of a run: the best one is reported, and records and tables say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_maps import QUIET

from densebench import catalog, options
from densebench.bridges.mmsegmentation import History, Validation
from densebench.datasets import load_dataset
from densebench.evaluation import window_scores
from densebench.evaluation.run import evaluate
from densebench.results.leaderboard import leaderboard

pytestmark = QUIET
CLASSES = len(load_dataset("scenes").classes)


def linear(preset):
    kind = catalog.load("protocols", "linear", preset)
    return options.build(kind, kind.presets[preset], {}).resolve(load_dataset("scenes"))


def validation(iteration, right, images):
    """Of 100 pixels of class 0 in every image so many are right, the others are taken for class 1; all others are right."""
    matrix = torch.diag(torch.full((CLASSES,), 100))
    matrix[0, 0], matrix[0, 1] = right, 100 - right
    places = matrix.flatten().nonzero()[:, 0]
    pairs = torch.stack([places, matrix.flatten()[places]])
    return Validation(iteration, dict.fromkeys(images, pairs), {}, [round(miou(right), 2)])


def miou(right):
    """By hand: class 0 has right / 100, class 1 100 / (200 - right), the others all."""
    return 100 * (right / 100 + 100 / (200 - right) + CLASSES - 2) / CLASSES


@pytest.fixture
def record_of(monkeypatch, tmp_path):
    """The record of a run that was validated as `course` says: (iteration, right pixels)."""

    def run(course, **given):
        def trained(_backbone, data, _setup, rates, *_places, **_more):
            names = [item.name for item in data.val]
            found = [validation(iteration, right, names) for iteration, right in course]
            return History(found, np.array([1]), {rate: np.array([0.5]) for rate in rates})

        monkeypatch.setattr(window_scores, "train", trained)
        asked = {"results": tmp_path, "workers": 0} | given
        [record] = evaluate("pixels:16", "linear", "scenes", learning_rates="1e-3", **asked).records
        return record

    return run


def headline(record):
    [score] = [score for score in record["scores"] if record["protocol"]["headline"].items() <= score.items()]
    return score


def test_dinov3_validates_every_5000_iterations():
    protocol = linear("dinov3")
    assert (protocol.iterations, protocol.iterations / protocol.validations) == (40_000, 5000)


def test_others_validate_ten_times_as_before():
    assert linear("mmseg").validations == 10


@pytest.mark.slow
def test_the_best_validation_is_reported_where_the_last_is_worse(record_of):
    score = headline(record_of([(5000, 40), (10_000, 90), (15_000, 60)], preset="dinov3"))
    assert score["value"] == pytest.approx(miou(90), abs=1e-4)
    assert score["details"]["iteration"] == 10_000 and score["details"]["mmseg_miou"] == pytest.approx(miou(90), abs=0.006)


def test_every_learning_rate_is_scored_by_its_own_head():
    first, second = (validation(1, right, ["a"]).pairs["a"] for right in (40, 90))
    pairs = torch.cat([first, second + torch.tensor([[CLASSES**2], [0]])], dim=1)  # the heads one after the other
    both = Validation(1, {"a": pairs}, {}, [0.0, 0.0])
    for head, right in enumerate((40, 90)):
        measured = window_scores.measure(both, head, CLASSES, ["a"], "skip")
        assert measured.miou == pytest.approx(miou(right))


@pytest.mark.slow
def test_a_record_says_that_the_scored_split_chose_among_validations(record_of):
    details = headline(record_of([(5000, 40), (10_000, 90)], preset="dinov3"))["details"]
    assert (details["chosen_on"], details["validations"]) == ("the scored split", 2)


@pytest.mark.slow
def test_one_validation_of_one_learning_rate_chooses_nothing(record_of):
    details = headline(record_of([(40_000, 90)], preset="dinov3", validations=1))["details"]
    assert "chosen_on" not in details and details["validations"] == 1


@pytest.mark.slow
def test_the_caption_of_a_table_says_so(record_of, tmp_path):
    record_of([(40_000, 90)], preset="dinov3")
    assert "the best of 8 validations on the scored split, group" in leaderboard(tmp_path).tables[0].caption


@pytest.mark.slow
def test_nothing_is_said_of_one_validation(record_of, tmp_path):
    record_of([(40_000, 90)], preset="dinov3", validations=1)
    assert "validation" not in leaderboard(tmp_path).tables[0].caption
