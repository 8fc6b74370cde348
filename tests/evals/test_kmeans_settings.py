"""What must not change a number of `kmeans`, and settings that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kmeans_by_loops import (
    DATA,
    NO_PCA,
    SMALL,
    WIDTH,
    Blocks,
    backbone,
    by_point,
    empty_cache,
    evaluate,
    mean_colours,
    random_features,
    values,
)
from point_sets import as_on_a_gpu
from tiers import late

from densebench import options
from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.evals.kmeans import KMeans
from densebench.evaluation.protocol import Run

__all__ = ["backbone", "empty_cache"]  # fixtures


@pytest.mark.parametrize("pca", late([None, 5], 5))
@pytest.mark.parametrize(
    "other",
    [{"scale": np.linspace(-3, 4, WIDTH), "shift": 20.0}, {"order": (3, 0, 7, 11, 1, 5, 2, 4, 10, 9, 8, 6)}],
    ids=["scaled", "permuted"],
)
def test_standardised_features_may_be_scaled_shifted_and_permuted(backbone, pca, other):
    given = {**SMALL, "pca": pca, "clusters": (4, 6), "seeds": 2}
    assert values(evaluate(random_features(**other), **given)) == values(evaluate(backbone, **given))
    if "scale" in other:
        assert values(evaluate(random_features(**other), **given, standardise=False)) != values(evaluate(backbone, **given))


def test_all_principal_components_are_all_features(backbone):
    given = {**NO_PCA, "clusters": (4, 6), "seeds": 2}
    everything = values(evaluate(backbone, **given))
    assert values(evaluate(backbone, **{**given, "pca": WIDTH})) == everything
    assert values(evaluate(backbone, **{**given, "pca": 1})) != everything


def test_the_order_of_images_is_nothing():
    given = {**NO_PCA, "per_cluster": None, "clusters": (4,), "restarts": 30, "mask_size": 20}
    data = replace(DATA, noise=4.0, block=8, order=(0, 3, 6, 1))  # the last is not square: its patches mix classes
    expected = values(evaluate(mean_colours(), data, **given))
    assert max(expected.values()) < 100
    assert values(evaluate(mean_colours(), replace(data, order=(1, 6, 0, 3)), **given)) == expected


@pytest.mark.parametrize(
    "runtime",
    [{"batch_size": 1}, {"batch_size": 3}, {"device": "cpu"}, pytest.param({"workers": 1}, marks=pytest.mark.slow)],
    ids=str,
)
def test_runtime_options_do_not_change_a_number(backbone, runtime):
    assert values(evaluate(backbone, **SMALL, **runtime)) == values(evaluate(backbone, **SMALL))


@pytest.mark.parametrize("way", ["cpu", "gpu"])
def test_a_number_does_not_depend_on_what_else_is_asked_and_known_points_are_left_out(backbone, monkeypatch, way):
    if way == "gpu":  # where points of one K are fitted in the same passes
        as_on_a_gpu(monkeypatch)
    given = {**SMALL, "clusters": (4, 6), "seeds": 2, "per_cluster": 5}
    together = evaluate(backbone, **given)
    known = frozenset({(("K", 4), ("seed", 0)), (("K", 6), ("seed", 1))})
    rest = values(evaluate(backbone, **given, run=Run(known=known, progress_key="known")))
    assert {key[:2] for key in rest} == {(4, 1), (6, 0)}
    alone = values(evaluate(backbone, **{**given, "clusters": (6,), "seeds": 1}))
    assert {**rest, **alone}.items() <= values(together).items()
    assert len({s.details["inertia"] for s in together}) == 4  # seeds draw other tokens


def test_only_images_of_the_scored_split_are_read(backbone):
    class Closed(Blocks):
        def list_items(self, split):
            return super().list_items("val") if split == self.open else (Item(f"closed-{i}", None, None) for i in range(3))

        def image(self, item):
            assert item.name.startswith("val"), item
            return super().image(item)

        def label(self, item):
            assert item.name.startswith("val"), item
            return super().label(item)

        open = "val"

    class Opposite(Closed):
        open = "train"

    expected = values(evaluate(backbone, **SMALL))
    assert values(evaluate(backbone, Closed(root=Path()), **SMALL)) == expected
    assert values(evaluate(backbone, Opposite(root=Path()), **SMALL, eval_split="train")) == expected
    assert options.build(KMeans, {}, {"eval_split": "train"}).resolve(DATA).splits(DATA)[1] == "train"


@pytest.mark.parametrize(("batch", "left"), [(1, 7), (3, 6), (4, 4), (5, 5), (7, 7)])
def test_what_does_not_fill_a_batch_is_left_out(backbone, batch, left):
    found = evaluate(backbone, **SMALL, whole_batches=batch)
    assert {s.details["images"] for s in found} == {left}
    assert values(found) == values(evaluate(backbone, replace(DATA, order=tuple(range(left))), **SMALL))


def test_a_limit_takes_fewer_images(backbone):
    found = evaluate(backbone, **SMALL, run=Run(limit=3, progress_key="limit"))
    assert {s.details["images"] for s in found} == {3}


class Void(Blocks):
    def label(self, item):
        return np.full_like(super().label(item), 255)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clusters": (113,)}, "--clusters"),
        ({"clusters": (4, 65), "whole_batches": 4}, "--clusters"),
        ({"pca": WIDTH + 1}, "--pca"),
        ({"image_size": 30}, "30|multiple of"),
        ({"eval_split": "test"}, "test"),
        ({"engine": "faiss", "init": "k-means++"}, "k-means"),
        ({"engine": "sklearn", "spherical": True}, "spherical"),
    ],
    ids=str,
)
def test_wrong_settings_are_errors_that_name_them(backbone, given, message):
    with pytest.raises(UserError, match=message):
        evaluate(backbone, **{**SMALL, **given})


def test_as_many_clusters_as_tokens_are_allowed(backbone):
    found = by_point(evaluate(backbone, **{**SMALL, "pca": WIDTH}, clusters=(64,), whole_batches=4, restarts=1))
    assert found[64, 0, "matched"].details["inertia"] == pytest.approx(0, abs=1e-3)


def test_images_without_a_labelled_pixel_are_refused(backbone):
    with pytest.raises(UserError, match=r"label|class"):
        evaluate(backbone, Void(root=Path()), **SMALL)


def test_the_presets_are_those_of_the_papers():
    leopart = {"image_size": 448, "mask_size": 100, "whole_batches": None, "absent": "zero", "other_class": "off"}
    leopart |= {"standardise": True, "pca": 50, "grid_size": None, "spherical": False, "init": "points"}
    leopart |= {"restarts": 5, "iterations": 100, "per_cluster": 256}
    full = {"standardise": False, "pca": None, "per_cluster": None, "init": "k-means++", "restarts": 1, "absent": "skip"}
    expected = {
        "leopart": leopart,
        "leopart-exact": leopart | {"whole_batches": 60},
        "neco": leopart | {"other_class": "dead"},
        "croc": leopart,
        "timet": leopart | {"grid_size": 112, "iterations": 50, "mask_size": 112},
        "full": full,
    }
    assert next(iter(KMeans.presets)) == "leopart"
    for name, settings in expected.items():
        built = options.build(KMeans, KMeans.presets[name], {})
        assert {option: getattr(built, option) for option in settings} == settings, name
        assert (built.engine, built.match, built.mask_resample) == ("torch", "auto", "nearest")
        assert (built.clusters, built.seeds) == ((0,), 5)


@pytest.mark.parametrize("preset", list(KMeans.presets))
def test_every_preset_runs_and_beats_chance(preset):
    given = {"image_size": None, "seeds": 1, "pca": None} | ({"whole_batches": 3} if preset == "leopart-exact" else {})
    given |= {"grid_size": 14} if preset == "timet" else {}
    found = values(evaluate(mean_colours(), preset=preset, **given))
    assert 25 < found[4, 0, "matched"] <= 100
