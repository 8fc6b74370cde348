"""The protocol `unsupervised` as a whole: worlds whose numbers follow from arithmetic, each step by itself.

Ziegler and Asano, Leopart, CVPR 2022; Pariza et al., NeCo, ICLR 2025.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from dataclasses import replace

import drawn_parts as naive
import numpy as np
import pytest
import torch
from drawn_parts import DATA, NOISY, WORLDS, attention_masks, parts_of
from unsupervised_runs import COMMUNITY, EXACT, LOOSE, by_variant, check, empty_cache, evaluate

from densebench.evals.unsupervised.communities import cooccurrence, graph, offsets

__all__ = ["empty_cache"]  # fixture


@pytest.mark.parametrize("world", WORLDS)
def test_every_number_is_that_of_arithmetic(world):
    """The foreground's five parts are its clusters; 0 and 1, 2 and 3 are communities; 4 has no neighbour and falls to 0."""
    dataset = WORLDS[world]
    scores = evaluate(dataset, **{**EXACT, "foreground_clusters": 5 + dataset.backgrounds})
    found, maps = by_variant(scores), [parts_of(item.name, dataset.backgrounds) for item in dataset.items("val")]
    for precision in (naive.precisions(dataset, split) for split in ("train", "val")):
        assert precision[:5].min() > 0.35 > 0.25 > precision[5:].max()  # all parts are far from the cut
    check(found["miou", "cbfe+cd"], naive.ious(dataset, [COMMUNITY[one] for one in maps]))
    check(found["miou", "overclustering"], naive.ious(dataset, [np.minimum(one, 5) for one in maps], "precision"))
    headline = found["miou", "cbfe+cd"].details
    assert (headline["communities"], headline["connected"], headline["threshold"]) == (2, 4, pytest.approx(0.3))
    for name, masks in (("cbfe", [one < 5 for one in maps]), ("attention", attention_masks(dataset, "val"))):
        assert found["foreground_iou", name].value == pytest.approx(naive.foreground_iou(dataset, masks), abs=1e-3), name
    if world == "classes are communities":
        assert found["foreground_iou", "cbfe"].value == pytest.approx(100 * 7 / 8)  # one image has no foreground: 0
        assert found["miou", "overclustering"].value == 100
        assert list(found["miou", "cbfe+cd"].per_class.values())[1:] == [100, 100, 0]
    if world == "a class of a part":
        check(found["miou", "cbfe"], naive.ious(dataset, [np.minimum(one, 5) for one in maps]))


def test_communities_of_everything():
    dataset = replace(DATA, shift=3, void=0.1)
    found = by_variant(evaluate(dataset, **{**EXACT, "community_clusters": 10}))
    check(found["miou", "cd"], naive.ious(dataset, [COMMUNITY[parts_of(i.name, 5)] for i in dataset.items("val")]))


def test_neighbours_are_pixels_of_label_maps_in_both_splits():
    """At several least weights, some between those that other lists of neighbours give, so many clusters have an edge."""
    names = [item.name for split in ("train", "val") for item in DATA.items(split)]
    maps = torch.from_numpy(np.stack([naive.large(np.minimum(parts_of(name, 5), 5)) for name in names]))
    listed = {"leopart": offsets((1, 2), "leopart"), "eight": offsets((1, 2)), "near": offsets((1,))}
    shares = {name: cooccurrence(maps, 6, neighbours) for name, neighbours in listed.items()}
    weights = [min(float(share[0, 1]), float(share[1, 0])) for share in shares.values()]
    for angles, threshold in itertools.product(("leopart", "eight"), (0.25, 0.65, sum(weights[:2]) / 2, sum(weights[1:]) / 2)):
        found = evaluate(**{**EXACT, "angles": angles, "weight_threshold": threshold})[-1].details
        edges = graph(shares[angles], threshold)
        assert found["connected"] == len({end for i, j, _ in edges for end in (i, j)}), (angles, threshold)
    assert min(abs(weights[0] - weights[1]), abs(weights[1] - weights[2])) > 1e-4


def test_clusters_of_the_foreground_are_of_directions():
    """In dim images parts differ less from one another than from themselves in bright ones; their directions are the same."""
    dataset = replace(DATA, dimmed=0.2)
    found = by_variant(evaluate(dataset, **EXACT, restarts=20))
    expected = naive.foreground_iou(dataset, [parts_of(item.name, 5) < 5 for item in dataset.items("val")])
    assert found["foreground_iou", "cbfe"].value == pytest.approx(expected, abs=1e-3)


def test_as_many_clusters_as_classes():
    dataset = replace(WORLDS["a class of a part"], backgrounds=1, shift=3)
    found = by_variant(evaluate(dataset, **{**EXACT, "foreground_clusters": 6}))
    expected = naive.ious(dataset, [parts_of(item.name, 1) for item in dataset.items("val")])
    check(found["miou", "kmeans"], expected)
    check(found["miou", "cbfe"], expected)


@pytest.mark.parametrize("cut", ["labels", "labels without part 1", "attention"])
def test_the_cut_is_where_train_agrees_best(cut):
    dataset = replace(DATA, train_labels="without part 1" if "without" in cut else "own")
    parts = [parts_of(item.name, 5) for item in DATA.items("train")]
    truths = [(one < 5) & ((one != 1) | ("without" not in cut)) for one in parts]
    threshold = naive.best_cut(DATA, attention_masks(DATA, "train") if cut == "attention" else truths)
    found = by_variant(evaluate(dataset, **{**EXACT, "cut": cut.split()[0]}))
    assert found["miou", "cbfe+cd"].details["threshold"] == pytest.approx(threshold, abs=1e-6)
    kept = naive.precisions(DATA, "val") >= threshold
    expected = naive.foreground_iou(DATA, [kept[parts_of(item.name, 5)] for item in DATA.items("val")])
    assert found["foreground_iou", "cbfe"].value == pytest.approx(expected, abs=1e-3)


def test_each_split_votes_for_its_own_foreground():
    """A cut between the precisions of a part on train and on the scored split: there the scored split's own counts."""
    train, val = (naive.precisions(DATA, split) for split in ("train", "val"))
    middle, reached = (train + val) / 2, min(train.max(), val.max())
    part = int(np.argmax(np.where(middle <= reached, np.abs(train - val), 0)[:5]))
    cut = middle[part]
    kept = [(own >= cut)[parts_of(item.name, 5)] for own in (train, val) for item in DATA.items("val")]
    wrong, expected = naive.foreground_iou(DATA, kept[:8]), naive.foreground_iou(DATA, kept[8:])
    assert abs(wrong - expected) > 1
    found = by_variant(evaluate(**{**EXACT, "cut": str(cut), "community_clusters": 3}))
    assert found["foreground_iou", "cbfe"].value == pytest.approx(expected, abs=1e-3)


WAYS = [{"resolution": "none"}, {"angles": "eight"}, {"mask_size": 32}, {"clustering_seed": "none", "seeds": 2}]


WAYS += [{"method": "infomap"}] if importlib.util.find_spec("infomap") else []


@pytest.mark.parametrize("given", WAYS, ids=str)
def test_clear_communities_are_found_in_every_way(given):
    dataset = WORLDS["two classes on plain ground"]
    scores = evaluate(dataset, **{**EXACT, "foreground_clusters": 6, **given})
    expected = evaluate(dataset, **{**EXACT, "foreground_clusters": 6, "mask_size": given.get("mask_size")})
    for seed in range(given.get("seeds", 1)):
        found = by_variant(scores, seed)["miou", "cbfe+cd"]
        assert (found.details["communities"], found.details["connected"], found.value) == (2, 4, expected[-1].value)


REACHED = [
    ({"attention_mass": 0.4}, "foreground_iou", "attention"), ({"foreground_clusters": 40}, "foreground_iou", "cbfe"),
    ({"community_clusters": 2}, "miou", "overclustering"), ({"weight_threshold": 0.3}, "miou", "cbfe+cd"),
    ({"resolution": 0.01}, "miou", "cbfe+cd"), ({"standardise": "no"}, "miou", "kmeans"),
    ({"pca": "none"}, "miou", "kmeans"), ({"mask_size": 16}, "miou", "kmeans"),
]  # fmt: skip


@functools.cache
def by_default():
    """The values of a run with no setting given."""
    return {key: score.value for key, score in by_variant(evaluate(NOISY, **LOOSE)).items()}


@pytest.mark.parametrize(("given", "metric", "variant"), REACHED, ids=str)
def test_settings_reach_what_they_are_for(given, metric, variant):
    other = by_variant(evaluate(NOISY, **{**LOOSE, **given}))
    assert by_default()[metric, variant] != other[metric, variant].value
