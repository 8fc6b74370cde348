"""The protocol `kmeans` as a whole: a naive restatement in float64, and exact arithmetic on hand-made features.

Ziegler and Asano, Leopart, CVPR 2022 (standardise, PCA, K-means on the scored images, matching by labels); Salehi et al., TimeT,
ICCV 2023 (features upsampled first); Pariza et al., NeCo, ICLR 2025 (a dead class 0); Kuhn, the Hungarian method, 1955.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from kmeans_by_loops import (
    ALIGNED,
    CLASSES,
    DATA,
    FIVE,
    IMAGES,
    NO_PCA,
    SMALL,
    ZERO,
    backbone,
    by_point,
    empty_cache,
    evaluate,
    mean_colours,
    naive,
    naive_ious,
    naive_label,
    naive_mean,
    naive_tokens,
    values,
)

from densebench import options
from densebench.evals.kmeans import KMeans
from densebench.evaluation.labels import LabelSpace
from densebench.numerics import bootstrap
from densebench.numerics import kmeans as clustering

__all__ = ["backbone", "empty_cache"]  # fixtures


@pytest.mark.parametrize(
    ("dataset", "given"),
    [
        (DATA, {}),
        pytest.param(DATA, {"pca": None}, marks=pytest.mark.slow),
        pytest.param(DATA, {"standardise": False, "pca": 2}, marks=pytest.mark.slow),
        (DATA, {"standardise": False, "pca": None, "init": "k-means++", "restarts": 1, "per_cluster": None}),
        (DATA, {"per_cluster": 6}),
        pytest.param(DATA, {"restarts": 1, "iterations": 2}, marks=pytest.mark.slow),
        (DATA, {"spherical": True}),
        (DATA, {"grid_size": 6, "mask_size": 20}),
        pytest.param(DATA, {"grid_size": 9, "pca": 3, "per_cluster": 20}, marks=pytest.mark.slow),
        (DATA, {"mask_size": None}),
        pytest.param(DATA, {"mask_size": 21, "mask_resample": "nearest-exact"}, marks=pytest.mark.slow),
        pytest.param(DATA, {"match": "iou"}, marks=pytest.mark.slow),
        pytest.param(FIVE, {"absent": "zero"}, marks=pytest.mark.slow),
        (FIVE, {"absent": "skip"}),
        pytest.param(ZERO, {"other_class": "off"}, marks=pytest.mark.slow),
        (ZERO, {"other_class": "dead"}),
        (ZERO, {"other_class": "class"}),
    ],
    ids=lambda value: ",".join(f"{n}={v}" for n, v in value.items()) if isinstance(value, dict) else "",
)
def test_every_number_is_that_of_a_naive_restatement(backbone, dataset, given):
    """K below, at and above the number of classes; all variants; inertia, classes, bootstrap."""
    given = {"image_size": None, "standardise": True, "pca": 5, "grid_size": None, "absent": "zero", **given}
    given = {"mask_size": 18, "mask_resample": "nearest", **given}
    # With more clusters than classes of which one is never seen, it might be given any of those that are left.
    clusters, seeds = (3, 4, 5 if dataset is FIVE else 6), (0, 1)
    found = by_point(evaluate(backbone, dataset, clusters=clusters, seeds=len(seeds), **given))
    assert len(found) == 4 * len(clusters) * len(seeds)
    names = [item.name for item in dataset.items("val")]
    for k, seed in itertools.product(clusters, seeds):
        tallies, inertia = naive(backbone, dataset, names, k, seed, given)
        for variant, tally in tallies.items():
            score, ious = found[k, seed, variant], naive_ious(tally.sum(0))
            assert score.value == pytest.approx(naive_mean(ious, given["absent"]), abs=1e-3), (k, seed, variant)
            assert list(score.per_class.values()) == [v if v is None else pytest.approx(v, abs=1e-3) for v in ious]
            resampled = 100 * bootstrap.bootstrap_mean_iou(torch.from_numpy(tally), given["absent"])
            assert score.bootstrap == pytest.approx(resampled.tolist(), abs=1e-3)
            assert score.ci95 == pytest.approx(bootstrap.interval(resampled), abs=1e-3)
            assert score.details["inertia"] == pytest.approx(inertia, rel=1e-3)
            assert score.details["images"] == len(names)
            assert 1 <= score.details["iterations"] <= given.get("iterations", 100)


def test_points_their_variants_and_the_headline(backbone):
    scores = evaluate(backbone, **{**SMALL, "clusters": (0, 7, 4, 7), "seeds": 2})
    points = list(dict.fromkeys(tuple(sorted(s.axes.items())) for s in scores))
    assert sorted(points) == [(("K", k), ("seed", s)) for k in (4, 7) for s in (0, 1)]
    for point in points:
        own = [s for s in scores if tuple(sorted(s.axes.items())) == point]
        assert sorted(s.variant for s in own) == ["hungarian", "iou", "matched", "precision"]
        assert (own[-1].metric, own[-1].variant) == ("miou", "matched")
        assert own[-1].details["matching"] == ("hungarian" if dict(point)["K"] == 4 else "precision")
    evaluator = options.build(KMeans, {}, {}).resolve(DATA)
    assert evaluator.headline().items() <= {"metric": "miou", "variant": "matched"}.items()
    assert evaluator.points(DATA) == [(("K", 4), ("seed", s)) for s in range(5)]


def test_fewer_clusters_than_classes_are_named_by_their_most_frequent_class():
    """Both by class a, of which 11 of 11 pixels are found among 16; the Hungarian matching would take b for the first."""
    counted = torch.tensor([[[6, 5], [4, 0], [0, 1], [0, 0]]])
    evaluator = options.build(KMeans, KMeans.presets["leopart"], {}).resolve(DATA)
    *_, score = evaluator.scores(counted, LabelSpace(DATA, "drop", "off"), (("K", 2), ("seed", 0)), {})
    assert score.variant == "matched" and score.details == {"matching": "precision"}
    assert score.value == pytest.approx(100 * 11 / 16 / 4, abs=1e-4)


@pytest.mark.parametrize("match", ["hungarian", "precision", "iou"])
def test_a_named_matching_is_the_headline_of_every_k(backbone, match):
    found = by_point(evaluate(backbone, **SMALL, clusters=(3, 4, 9), match=match))
    for k in (3, 4, 9):
        assert found[k, 0, "matched"].value == found[k, 0, match].value
        assert found[k, 0, "matched"].details["matching"] == match
    assert len({found[9, 0, variant].value for variant in ("hungarian", "precision")}) == 2


def test_k_zero_counts_the_other_class(backbone):
    for kind, k in (("off", 4), ("dead", 5), ("class", 5)):
        found = by_point(evaluate(backbone, ZERO, **SMALL, other_class=kind))
        assert {key[0] for key in found} == {k}
        assert list(found[k, 0, "matched"].per_class) == (["other"] if k == 5 else []) + ["a", "b", "c", "d"]


@pytest.mark.parametrize("engine", ["torch", "minibatch", "faiss", "sklearn"])
@pytest.mark.parametrize("preset", ["leopart", "full"])
def test_features_that_tell_the_class_score_100(engine, preset):
    given = {"image_size": None, "seeds": 2, "engine": engine, "pca": None, "init": "points", "restarts": 20}
    scores = evaluate(mean_colours(), ALIGNED, preset, **{**given, "mask_size": 32, "clusters": (4, 7)})
    found = values(scores)
    assert {found[4, seed, v] for seed in (0, 1) for v in ("hungarian", "precision", "iou", "matched")} == {100}
    assert found[7, 0, "matched"] == 100
    for score in scores:
        if score.axes["K"] == 4:  # a draw of images may lack a class, which leopart counts as 0
            assert score.ci95[1] == 100
            assert (score.ci95[0] == 100) is (preset == "full")


@pytest.mark.parametrize("given", [{"pca": None}, {"pca": 2}, {"pca": None, "standardise": False}], ids=str)
@pytest.mark.parametrize("k", [2, 4, 6])
def test_constant_features_score_the_greatest_class(given, k):
    """All tokens fall into one cluster: the greatest class has its share of the pixels, the others nothing."""
    found = values(evaluate(mean_colours(0.0), **{**NO_PCA, **given}, clusters=(k,), restarts=2))
    labels = np.concatenate([naive_label(DATA, f"val-{i}", 18, "nearest", "off").ravel() for i in range(IMAGES)])
    counts = np.bincount(labels[labels != 255], minlength=CLASSES)
    assert list(found.values()) == pytest.approx([100 * counts.max() / counts.sum() / CLASSES] * len(found), abs=1e-3)


@pytest.mark.parametrize("per_cluster", [None, 4])
def test_engines_agree_on_easy_features(per_cluster):
    given = {**NO_PCA, "clusters": (4,), "per_cluster": per_cluster, "restarts": 20, "mask_size": 20}
    scores = {engine: evaluate(mean_colours(), ALIGNED, engine=engine, **given) for engine in ("torch", "faiss", "sklearn")}
    for engine in ("faiss", "sklearn"):
        assert values(scores[engine]) == values(scores["torch"])
        assert scores[engine][-1].details["inertia"] == pytest.approx(scores["torch"][-1].details["inertia"], rel=0.02)
    rows = naive_tokens(mean_colours(), ALIGNED, ["val-0", "val-3", "val-6"], pca=None)
    rows = rows[clustering.sample(len(rows), 4, per_cluster, 0).numpy()]
    naive_fit = clustering.kmeans(torch.from_numpy(rows).float(), 4, per_cluster=None, restarts=20)
    assert scores["torch"][-1].details["inertia"] == pytest.approx(naive_fit.inertia, rel=0.02)
