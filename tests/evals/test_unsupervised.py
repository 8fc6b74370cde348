"""The protocol `unsupervised` as a whole: exact arithmetic on objects made of parts, what labels may reach, seeds, errors.

Ziegler and Asano, Leopart, CVPR 2022 (cluster-based foreground extraction and community detection); Pariza et al., NeCo, ICLR
2025, table 6. Every patch shows one part, which a hand-made ViT tells and attends to, so that clusters are known beforehand.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace

import drawn_parts as naive
import numpy as np
import pytest
import torch
from densebench.evals.unsupervised.communities import cooccurrence, graph, offsets
from densebench.evals.unsupervised.protocol import Unsupervised
from drawn_parts import DATA, NOISY, SIDE, WORLDS, attention_masks, parts_of, seeing

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

COMMUNITY = np.array([1, 1, 2, 2, 0, *[0] * 10])  # of the parts: 4 has no neighbour, and 5 and above are background
VARIANTS = ("kmeans", "cbfe", "cd", "overclustering", "cbfe+cd")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


EXACT = {"image_size": SIDE, "standardise": False, "pca": None, "mask_size": None, "seeds": 1, "foreground_clusters": 10}
EXACT |= {"community_clusters": 5, "weight_threshold": 0.4, "resolution": 1.0, "cut": "0.3", "per_cluster": None}
LOOSE = {"image_size": SIDE, "pca": 12, "mask_size": 40, "seeds": 2, "foreground_clusters": 20, "community_clusters": 12}


def evaluate(dataset=DATA, backbone=None, preset="leopart", run=None, **given):
    evaluator = options.build(Unsupervised, Unsupervised.presets[preset], given).resolve(dataset)
    run = run or Run(progress_key=digest([preset, repr(dataset), sorted(map(str, given.items()))], 16))
    return list(evaluator.run(backbone or seeing(), dataset, run))


def by_variant(scores, seed=0):
    return {(s.metric, s.variant): s for s in scores if s.axes["seed"] == seed}


def values(scores):
    return {(s.axes["seed"], s.metric, s.variant): s.value for s in scores}


def check(score, ious):
    assert list(score.per_class.values()) == pytest.approx(list(ious), abs=1e-3)
    assert score.value == pytest.approx(np.mean(ious), abs=1e-3)


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


@pytest.mark.parametrize(("given", "metric", "variant"), REACHED, ids=str)
def test_settings_reach_what_they_are_for(given, metric, variant):
    default, other = (by_variant(evaluate(NOISY, **{**LOOSE, **more})) for more in ({}, given))
    assert default[metric, variant].value != other[metric, variant].value


@pytest.mark.parametrize("preset", list(Unsupervised.presets))
def test_points_variants_and_the_headline(preset):
    given = LOOSE if preset != "label-free" else {name: value for name, value in LOOSE.items() if name != "community_clusters"}
    scores = evaluate(NOISY, preset=preset, **given, restarts=1, iterations=10)
    expected = {*(("miou", variant) for variant in VARIANTS), ("foreground_iou", "cbfe"), ("foreground_iou", "attention")}
    for seed in (0, 1):
        own = [s for s in scores if s.axes == {"seed": seed}]
        assert {(s.metric, s.variant) for s in own} == expected
        assert len(own) == 7
        assert (own[-1].metric, own[-1].variant) == ("miou", "cbfe+cd")
        details = own[-1].details
        chosen = [] if preset == "label-free" else ["cut", "community_clusters", "weight_threshold"]
        assert [name for name in details["chosen_with_labels"] if name != "markov_time"] == chosen
        assert 1 <= details["communities"] <= details["connected"]
        found = by_variant(own, seed)
        assert found["miou", "overclustering"].value >= found["miou", "cbfe+cd"].value - 1e-6
    assert len(scores) == 14
    evaluator = options.build(Unsupervised, Unsupervised.presets[preset], {}).resolve(DATA)
    assert evaluator.headline().items() <= {"metric": "miou", "variant": "cbfe+cd"}.items()
    assert evaluator.points(DATA) == [(("seed", seed),) for seed in range(10)]
    assert evaluator.splits(DATA) == ("train", "val")


def test_the_presets_are_those_of_the_papers():
    expected = {"leopart": (149, "labels", "leopart"), "leopart-b8": (109, "labels", "leopart")}
    expected |= {"neco": (189, "labels", "leopart"), "label-free": (None, "attention", "eight")}
    assert list(Unsupervised.presets) == list(expected)
    for name, (clusters, cut, angles) in expected.items():
        built = options.build(Unsupervised, Unsupervised.presets[name], {})
        assert (built.image_size, built.pca, built.mask_size, built.foreground_clusters) == (448, 50, 100, 200)
        assert (built.standardise, built.method, built.attention_mass, built.seeds) == (True, "louvain", 0.65, 10)
        assert (built.attention_from, built.attention_weights, built.cut, built.angles) == (None, None, cut, angles)
        assert clusters in (None, built.community_clusters)
        assert built.clustering_seed == (None if name == "label-free" else 0)


@pytest.mark.parametrize("labels", ["permuted", "random", "without part 1"])
def test_without_labels_those_of_train_reach_nothing(labels):
    datasets = (NOISY, replace(NOISY, train_labels=labels))
    expected, found = (evaluate(dataset, preset="label-free", **LOOSE) for dataset in datasets)
    assert [s.json() for s in found] == [s.json() for s in expected]


@pytest.mark.parametrize("preset", ["label-free", "leopart"])
def test_labels_of_the_scored_split_name_clusters_and_no_more(preset):
    expected = evaluate(NOISY, preset=preset, **LOOSE)
    for labels in ("random", "swapped"):
        found = evaluate(replace(NOISY, val_labels=labels), preset=preset, **LOOSE)
        assert [s.details for s in found] == [s.details for s in expected]
        if labels == "swapped":  # the same clusters by other names
            pairs = [(one, other) for one, other in zip(found, expected, strict=True) if one.variant != "overclustering"]
            for one, other in pairs:  # there a cluster may be of two classes alike, and takes the first
                assert one.value == pytest.approx(other.value, abs=1e-6), one.variant
                swapped = dict(zip(("background", "b", "a", "c"), other.per_class.values(), strict=False))
                assert one.per_class == {name: swapped[name] for name in other.per_class}
        else:
            assert values(found) != values(expected)


def test_images_of_train_are_clustered_too():
    expected = values(evaluate(NOISY, preset="label-free", **LOOSE))
    found = values(evaluate(replace(NOISY, train_images="-other"), preset="label-free", **LOOSE))
    assert all(found[0, "miou", v] != expected[0, "miou", v] for v in ("kmeans", "cbfe", "overclustering"))
    assert found[0, "foreground_iou", "attention"] == expected[0, "foreground_iou", "attention"]


def test_seeds_and_what_depends_on_them():
    given = {**LOOSE, "seeds": 4, "restarts": 1, "resolution": 1.0}
    together = values(evaluate(NOISY, **given))

    def of(scores, variant, metric="miou"):
        return {value for (_, m, v), value in scores.items() if (m, v) == (metric, variant)}

    assert len(of(together, "overclustering")) == len(of(together, "cbfe", "foreground_iou")) == 1  # clustering_seed 0
    assert len(of(together, "kmeans")) > 1
    assert len(of(together, "cbfe")) > 1
    known = frozenset({(("seed", 0),), (("seed", 2),)})
    rest = values(evaluate(NOISY, **given, run=Run(known=known, progress_key="known")))
    assert {key[0] for key in rest} == {1, 3}
    assert rest.items() <= together.items()
    none = values(evaluate(NOISY, **given, clustering_seed="none"))
    assert len(of(none, "overclustering")) > 1
    assert {key: none[key] for key in none if key[0] == 0} == {key: together[key] for key in together if key[0] == 0}
    three = values(evaluate(NOISY, **{**given, "seeds": 1}, clustering_seed=3))
    assert three[0, "miou", "overclustering"] == none[3, "miou", "overclustering"]


@pytest.mark.parametrize("runtime", [{"batch_size": 1}, {"batch_size": 3}, {"device": "cpu"}], ids=str)
def test_runtime_options_do_not_change_a_number(runtime):
    expected = evaluate(NOISY, **LOOSE)
    state = {name: value.clone() for name, value in seeing().state_dict().items()}
    assert values(evaluate(NOISY, **LOOSE, **runtime)) == values(expected)
    assert all(torch.equal(state[name], value) for name, value in seeing().state_dict().items())


def test_attention_of_another_backbone():
    """Pixels have no attention; that of a ViT of larger patches serves, on its own grid."""
    with pytest.raises(UserError, match="--attention-from"):
        evaluate(NOISY, load_backbone("pixels:8"), **LOOSE)
    other = "random:vit_tiny_patch16_224"
    found = by_variant(evaluate(NOISY, load_backbone("pixels:8"), **LOOSE, attention_from=other))
    assert {variant for metric, variant in found if metric == "miou"} == set(VARIANTS)
    own = load_backbone(other)
    expected = values(evaluate(NOISY, own, **LOOSE))
    assert values(evaluate(NOISY, own, **LOOSE, attention_from=other)) == expected
    assert found["foreground_iou", "attention"].value == pytest.approx(expected[0, "foreground_iou", "attention"])
    with pytest.raises(UserError, match="--attention-from"):
        evaluate(NOISY, load_backbone("pixels:8"), **LOOSE, attention_from="random:tf_efficientnet_lite0")


WRONG = [
    ({"cut": "1.5"}, "--cut"), ({"cut": "lables"}, "--cut"), ({"cut": "0.99", "attention_mass": 0.3}, "0.99"),
    ({"community_clusters": 1000}, "--community-clusters"), ({"foreground_clusters": 1000}, "--foreground-clusters"),
    ({"pca": 25}, "--pca"), ({"eval_split": "test"}, "test"), ({"train_split": "trian"}, "trian"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG, ids=str)
def test_wrong_settings_are_errors_that_name_them(given, message):
    with pytest.raises(UserError, match=message):
        evaluate(**{**EXACT, **given})


def test_data_without_a_background_are_refused():
    with pytest.raises(UserError, match="background"):
        evaluate(replace(DATA, background=None), **EXACT)


def test_equal_cuts_are_one_setting_and_attention_of_another_backbone_is_more_than_its_weights():
    def resolved(**given):
        return options.build(Unsupervised, Unsupervised.presets["leopart"], given).resolve(DATA)

    assert resolved(cut="0.50").settings(DATA) == resolved(cut="0.5").settings(DATA)
    found = resolved(attention_from="random:vit_tiny_patch16_224").settings(DATA)["attention_from"]
    assert found["pos_embed"] == "antialias" and found["layer"] == "attention" and len(found["digest"]) == 64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "sklearn"}, "--engine sklearn: it has no spherical K-means"),
        ({"markov_time": "0"}, "--markov-time 0"),
        ({"community_clusters": 400}, "400 clusters of .* foreground tokens"),
    ],
)
def test_what_cannot_work_is_said(given, said):
    with pytest.raises(UserError, match=said):
        evaluate(**{**EXACT, "cut": "0.3", **given})
