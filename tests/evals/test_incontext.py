"""The protocol `incontext` as a whole: against a naive restatement, and what must not change a number."""

from __future__ import annotations

import itertools

import pytest
import torch
from retrieval_by_loops import DATA, PLAIN, SIDE, TRAIN, backbone, empty_cache, evaluate, naive, naive_pixels, values

from densebench.evals.incontext import voting
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.protocol import Run

__all__ = ["backbone", "empty_cache"]  # fixtures


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"metric": ("l2",)},
        {"labels": "majority", "weighting": "equal"},
        {"temperature": 0.1, "neighbours": (3,)},
        {"memory_norm": "patches"},
    ],
)
def test_equals_a_naive_restatement(backbone, given):
    found = values(evaluate(backbone, **{**PLAIN, **given}))
    told = {name: value[0] if isinstance(value, tuple) else value for name, value in given.items()}
    expected = naive(backbone, TRAIN, **{"k" if name == "neighbours" else name: value for name, value in told.items()})
    assert found[1, None] == pytest.approx(expected, abs=2e-3)  # scores are kept to four decimals


def test_pixelwise_votes_equal_a_naive_restatement(backbone):
    given = {"image_size": SIDE, "resample": "bilinear", "neighbours": (4,), "metric": ("cosine",)}
    found = values(evaluate(backbone, preset="capi", **given))
    assert found[1, None] == pytest.approx(naive_pixels(backbone, TRAIN, 4), abs=2e-3)


def test_features_are_standardised_over_the_images_of_each_subset(backbone):
    given = {"image_size": SIDE, "resample": "bilinear", "neighbours": (4,), "metric": ("cosine",), "fractions": (2,), "seeds": 2}
    evaluator = InContext(fractions=(2,), seeds=2, subsets="uniform").resolve(DATA)
    chosen = evaluator.choose(DATA, DATA.items("train"), evaluator.points(DATA))
    found = values(evaluate(backbone, preset="capi", **given))
    for seed, images in enumerate(chosen):
        names = [name for name, inside in zip(TRAIN, images, strict=True) if inside]
        assert found[2, seed] == pytest.approx(naive_pixels(backbone, names, 4), abs=2e-3)


def test_neighbours_and_distance_are_the_best_on_a_tenth_of_the_training_images(backbone):
    """Without these in the memory: there, as on the scored images, one neighbour would be the best."""
    given = {"neighbours": (1, 2, 3), "metric": ("cosine", "l2")}
    asked = {
        TRAIN[i] for i in torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0))[: len(TRAIN) // 10].tolist()
    }
    rest = [name for name in TRAIN if name not in asked]
    pairs = itertools.product(*given.values())
    k, metric = max(pairs, key=lambda pair: naive(backbone, rest, pair[0], metric=pair[1], scored=sorted(asked)))
    scores = evaluate(backbone, **{**PLAIN, **given})
    assert (scores[0].details["neighbours"], scores[0].details["metric"]) == (k, metric) == (2, "l2")
    assert values(scores)[1, None] == pytest.approx(naive(backbone, TRAIN, k, metric=metric), abs=2e-3)


def test_every_fraction_and_seed_of_one_pass_equals_its_own_naive_run(backbone):
    given = {**PLAIN, "fractions": (1, 2, 5), "seeds": 3, "subsets": "uniform"}
    evaluator = InContext(**given).resolve(DATA)
    points = evaluator.points(DATA)
    chosen = evaluator.choose(DATA, DATA.items("train"), points)
    found = values(evaluate(backbone, **given))
    assert len(found) == len(points) == 7
    for point, images in zip(points, chosen, strict=True):
        expected = naive(backbone, [name for name, inside in zip(TRAIN, images, strict=True) if inside])
        assert found[dict(point)["fraction"], dict(point)["seed"]] == pytest.approx(expected, abs=2e-3)


def test_subsets_of_one_seed_are_nested_and_seeds_differ():
    for subsets in ("balanced", "uniform"):
        evaluator = InContext(fractions=(2, 5), seeds=4, subsets=subsets).resolve(DATA)
        chosen = evaluator.choose(DATA, DATA.items("train"), evaluator.points(DATA))
        half, fifth = chosen[:4], chosen[4:]
        assert (half | ~fifth).all()
        assert len({row.tobytes() for row in half}) > 1


@pytest.mark.parametrize(
    "runtime", [{"batch_size": 1}, {"batch_size": 7}, {"workers": 1}, {"engine": "faiss"}, {"device": "cpu"}], ids=str
)
def test_runtime_options_do_not_change_a_number(backbone, runtime):
    given = {"fractions": (1, 2), "seeds": 2, "neighbours": (5,)}
    assert values(evaluate(backbone, **given)) == pytest.approx(values(evaluate(backbone, **given, **runtime)), abs=1e-3)


def test_a_number_does_not_depend_on_what_else_is_asked(backbone):
    alone = values(evaluate(backbone, fractions=(5,), seeds=2, neighbours=(5,), memory_size=60))
    together = values(evaluate(backbone, fractions=(1, 2, 5), seeds=2, neighbours=(5,), memory_size=60))
    assert alone == {key: together[key] for key in alone}


@pytest.mark.parametrize("queries", [1, 10_000])
def test_the_number_of_queries_at_once_changes_nothing(backbone, monkeypatch, queries):
    expected = values(evaluate(backbone, **PLAIN))
    monkeypatch.setattr(voting, "QUERIES", queries)
    assert values(evaluate(backbone, **PLAIN, visualise=0)) == pytest.approx(expected, abs=1e-3)


def test_known_points_are_not_scored_again(backbone):
    evaluator = InContext(fractions=(1, 2), seeds=2, neighbours=(5,)).resolve(DATA)
    known = frozenset(point for point in evaluator.points(DATA) if dict(point)["fraction"] == 1)
    scores = list(evaluator.run(backbone, DATA, Run(known=known, progress_key="known")))
    assert {score.axes["fraction"] for score in scores} == {2}


def test_work_in_progress_is_taken_up(backbone, monkeypatch):
    """A run that dies while scoring goes on from what it kept, to the same scores."""
    monkeypatch.setattr(voting, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(voting, "QUERIES", 1)
    expected = evaluate(backbone, **PLAIN)
    evaluator, run = InContext(**PLAIN).resolve(DATA), Run(progress_key="dies")
    labelled = []

    def dies(self, grids, k, owner, plain=voting.Voter.votes):
        labelled.append(len(grids))
        if len(labelled) == 3:
            raise KeyboardInterrupt
        return plain(self, grids, k, owner)

    with monkeypatch.context() as patch:
        patch.setattr(voting.Voter, "votes", dies)
        with pytest.raises(KeyboardInterrupt):
            list(evaluator.run(backbone, DATA, run))
        assert list(evaluator.run(backbone, DATA, run)) == expected
    assert len(labelled) == 5  # two images before it died, the third twice, the fourth once
