"""Settings of `unsupervised`: presets, which labels reach what, seeds, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawn_parts import DATA, NOISY, seeing
from point_sets import as_on_a_gpu
from tiers import late
from unsupervised_runs import EXACT, LOOSE, VARIANTS, by_variant, empty_cache, evaluate, values

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.evals.unsupervised.protocol import Unsupervised
from densebench.evaluation.protocol import Run

__all__ = ["empty_cache"]  # fixture


@pytest.mark.parametrize("preset", late(Unsupervised.presets, next(iter(Unsupervised.presets))))
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


@pytest.mark.parametrize("labels", late(["permuted", "random", "without part 1"], "random"))
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


@pytest.mark.parametrize("clustering_seed", late(["0", "none"], "none"))
def test_seeds_fitted_together_on_a_gpu_are_those_of_a_cpu(monkeypatch, clustering_seed):
    given = {**LOOSE, "seeds": 3, "restarts": 2, "clustering_seed": clustering_seed}
    expected = values(evaluate(NOISY, **given))
    as_on_a_gpu(monkeypatch)
    known = frozenset({(("seed", 1),)})
    rest = values(evaluate(NOISY, **given, run=Run(known=known, progress_key="rest")))
    assert {key[0] for key in rest} == {0, 2} and rest.items() <= expected.items()


@pytest.mark.parametrize("runtime", late([{"batch_size": 1}, {"batch_size": 3}, {"device": "cpu"}], {"batch_size": 3}), ids=str)
def test_runtime_options_do_not_change_a_number(runtime):
    expected = evaluate(NOISY, **LOOSE)
    state = {name: value.clone() for name, value in seeing().state_dict().items()}
    assert values(evaluate(NOISY, **LOOSE, **runtime)) == values(expected)
    assert all(torch.equal(state[name], value) for name, value in seeing().state_dict().items())


@pytest.mark.slow
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
