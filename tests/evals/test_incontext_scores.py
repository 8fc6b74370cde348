"""What `incontext` puts into its memory and its scores; presets, errors, pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from retrieval_by_loops import (
    DATA,
    PLAIN,
    SIDE,
    Blocks,
    Clean,
    backbone,
    drawn,
    empty_cache,
    evaluate,
    headline,
    oracle,
    values,
)

from densebench.errors import UserError
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.protocol import Run

__all__ = ["backbone", "empty_cache"]  # fixtures


def test_bounded_memory_takes_its_share_of_every_view(backbone):
    scores = evaluate(backbone, memory_size=100, augment_epochs=2, neighbours=(5,))
    assert scores[0].details["patches"] == 100  # 5 of 16 patches of each of 20 views
    whole = evaluate(backbone, memory_size=None, augment_epochs=2, neighbours=(5,))
    assert whole[0].details["patches"] > 300


def test_views_of_an_image_stay_together(backbone):
    """With two views an image, a subset of half the images holds both views of those images and of no other."""
    scores = evaluate(backbone, memory_size=None, augment_epochs=2, fractions=(2,), seeds=3, subsets="uniform", neighbours=(5,))
    assert {score.details["images"] for score in scores} == {5}


def test_a_patch_that_is_void_is_not_in_the_memory(backbone):
    drop = evaluate(backbone, **PLAIN)[0].details["patches"]
    background = evaluate(backbone, **PLAIN, void="background")[0].details["patches"]
    assert (drop, background) == (159, 160)  # train-0 has one patch of void


def test_perfect_features_score_100():
    """With the label itself as the feature, only patches that mix classes can be wrong."""

    scores = evaluate(oracle(), Clean(root=Path()), **PLAIN, score_at="patch")
    assert values(scores)[1, None] == 100
    assert headline(scores).ci95 == (100, 100)


def test_other_class_spaces(backbone):
    """Where 0 is 'other': dead keeps a class that is never scored, class scores it, off ignores it."""
    dataset = replace(DATA, reduce_zero_label=True)
    off, dead, counted = (headline(evaluate(backbone, dataset, **PLAIN, other_class=kind)) for kind in ("off", "dead", "class"))
    assert list(off.per_class) == ["a", "b", "c", "d"]
    assert list(dead.per_class) == list(counted.per_class) == ["other", "a", "b", "c", "d"]
    assert dead.per_class["other"] in (None, 0.0)
    assert counted.per_class["other"] is not None
    assert off.value != counted.value


@pytest.mark.parametrize("preset", list(InContext.presets))
def test_every_preset_runs_and_beats_chance(backbone, preset):
    given = {"neighbours": (3, 5)} if preset == "capi" else {"neighbours": (5,)}
    given |= {"image_size": SIDE} if preset != "cribo" else {}
    scores = evaluate(backbone, preset=preset, fractions=(1, 2), seeds=2, **given)
    found = values(scores)
    assert len(found) == 3
    assert all(20 < value <= 100 for value in found.values())
    if preset == "capi":
        assert scores[0].details["neighbours"] in (3, 5)
        assert scores[0].details["metric"] in ("cosine", "l2")


def test_approximate_engines_say_their_recall(backbone):
    given = {**PLAIN, "engine": "faiss-ivf"}
    scores = evaluate(backbone, **given)
    assert 0 < scores[0].details["recall"] <= 1
    assert InContext(**given).settings(DATA)["engine"] == "faiss-ivf"
    assert InContext(engine="faiss").settings(DATA)["engine"] == "exact"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neighbours": (1000,)}, "--neighbours 1000: the memory of fraction 1 holds"),
        ({"fractions": (64,)}, "64"),
        ({"image_size": 30}, "24.*32|nearest"),
        ({"memory_size": 3}, "--memory-size 3: less than one patch for each of 10 views"),
        ({"eval_split": "test"}, "test"),
        ({"labels": "pixels"}, "--labels pixels"),
        ({"memory_norm": "patches", "metric": ("l2",)}, "--memory-norm patches"),
        ({"subset_dir": "/nonexistent", "fractions": (2,)}, "/nonexistent"),
    ],
)
def test_wrong_settings_are_errors_that_name_them(backbone, given, message):
    with pytest.raises(UserError, match=message):
        evaluate(backbone, **given)


def test_a_class_that_no_memory_shows_is_told(backbone):
    @dataclass(frozen=True, kw_only=True)
    class Fewer(Blocks):
        def label(self, item):
            label = super().label(item)
            return np.where(label == 3, 0, label).astype(np.uint8) if item.name.startswith("train") else label

    score = headline(evaluate(backbone, Fewer(root=Path()), **PLAIN))
    assert score.details["absent"] == ["d"]
    assert score.per_class["d"] == 0


def test_the_headline_comes_last_of_a_point(backbone):
    for preset, variant in (("hummingbird", "identity"), ("open-hummingbird", "hungarian")):
        scores = evaluate(backbone, preset=preset, fractions=(1, 2), seeds=1, neighbours=(5,))
        assert [(s.metric, s.variant) for s in scores[2::3]] == [("miou", variant)] * 2
        assert len({tuple(s.axes.items()) for s in scores[:3]}) == 1


def test_pictures(backbone, tmp_path):
    evaluator = InContext(**PLAIN, visualise=2).resolve(DATA)
    list(evaluator.run(backbone, DATA, Run(pictures=tmp_path / "pictures", progress_key="pictures")))
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["val-0-neighbours.png", "val-0.png", "val-3-neighbours.png", "val-3.png"]
    panel = np.asarray(Image.open(tmp_path / "pictures" / "val-0.png"))
    assert panel.shape == (SIDE, 3 * SIDE + 8, 3)
    assert np.array_equal(panel[:, :SIDE], drawn("val-0")[0])
    truth, palette = drawn("val-0")[1], np.array(DATA.palette())
    assert np.array_equal(panel[:, SIDE + 4 : 2 * SIDE + 4][truth != 255], palette[truth[truth != 255]])


def test_pictures_are_those_of_the_largest_subset_in_any_order_of_fractions(backbone, tmp_path):
    """Also where every subset has a memory of its own."""
    seen = []
    for fractions in ((1,), (1, 4), (4, 1)):
        given = {**PLAIN, "memory_norm": "patches", "subsets": "uniform", "fractions": fractions, "seeds": 1}
        run = Run(pictures=tmp_path / str(fractions), progress_key=str(fractions))
        list(InContext(**given, visualise=1).resolve(DATA).run(backbone, DATA, run))
        seen.append({path.name: path.read_bytes() for path in run.pictures.iterdir()})
    assert seen[0] == seen[1] == seen[2]
