"""The published linear probes: what must not change a number, what a killed run resumes from, and which inputs are refused."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from linear_probes import CROP, FEW, PLAIN, TRAIN, VAL, evaluate, headlines, noted_steps, probe
from PIL import Image
from retrieval_by_loops import DATA, PATCH, SIDE, drawn, empty_cache, values

from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.datasets.folders.opening import open_folder
from densebench.errors import UserError
from densebench.evals.linear import batches
from densebench.evaluation.protocol import Run
from densebench.numerics.sgd_layers import Heads

__all__ = ["empty_cache"]  # fixture


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(f"pixels:{PATCH}")


@pytest.fixture
def steps(monkeypatch):
    return noted_steps(monkeypatch)


@pytest.mark.parametrize("given", [PLAIN | {"train_batch": 3}, CROP], ids=["none", "crop"])
def test_a_number_does_not_depend_on_what_else_is_asked(given, backbone):
    alone = probe(**given, fractions=(8,), seeds=2, subsets="uniform")
    known = frozenset(point for point in alone.points(DATA) if dict(point)["seed"] == 0)
    scores = list(alone.run(backbone, DATA, Run(known=known, progress_key="alone")))
    assert list(values(scores)) == [(8, 1)]
    many = evaluate(backbone, **{**given, "fractions": (1, 8, 2), "seeds": 3, "subsets": "uniform"})
    assert values(many)[8, 1] == values(scores)[8, 1]
    assert len(set(values(many).values())) > 5
    rates = evaluate(backbone, **{**given, "fractions": (8,), "seeds": 2, "subsets": "uniform", "learning_rates": (0.3, 0.02)})
    assert values(rates, variant="lr 0.02") == {(8, s): values(many)[8, s] for s in (0, 1)}
    assert values(evaluate(backbone, **given)) == {(1, 0): values(many)[1, 0]}


CROPS = pytest.param(CROP | {"epochs": 1}, marks=pytest.mark.slow)


@pytest.mark.parametrize("given", [PLAIN | {"train_batch": 3}, CROPS], ids=["none", "crop"])
def test_runtime_options_do_not_change_a_number(given, backbone, monkeypatch, tmp_path):
    expected = values(evaluate(backbone, **given, seeds=2))
    for i, runtime in enumerate([{"batch_size": 1}, {"batch_size": 3}, {"workers": int(given["augment"] == "crop")}]):
        monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / f"cache {i}"))
        assert values(evaluate(backbone, **{**given, **runtime}, seeds=2)) == expected


@pytest.mark.parametrize(("given", "late"), [(PLAIN, (2, 3)), (CROP, (1,))], ids=["none", "crop"])
def test_a_rate_that_diverges_leaves_the_others(given, late, backbone):
    given = {**given, "epochs": 4, "seeds": 2}
    both = evaluate(backbone, **{**given, "learning_rates": (1e30, 0.02)})
    alone = evaluate(backbone, **given)
    assert values(both) == values(alone) == values(both, variant="lr 0.02")
    assert {score.variant for score in both if score.variant.startswith("lr")} == {"lr 0.02"}
    assert not [score for score in alone if score.variant.startswith("lr")]
    for score in headlines(both):
        assert score.details["learning_rate"] == 0.02
        assert list(score.details["learning_rates"]) == ["1e+30", "0.02"]
        epoch = re.fullmatch(r"diverged at (?:epoch )?(\d+)(?: of 4)?", score.details["learning_rates"]["1e+30"])
        assert epoch and int(epoch[1]) in late  # of the first three steps the second or the third sees it
    with pytest.raises(UserError, match="1e\\+30"):
        evaluate(backbone, **{**given, "learning_rates": (1e30, 1e31)})


@pytest.mark.parametrize(("given", "at"), [(PLAIN | {"train_batch": 4}, 2), (PLAIN | {"train_batch": 4}, 12), (CROP, 7)])
def test_a_killed_run_goes_on_from_its_last_epoch(given, at, backbone, monkeypatch):
    given = {**given, "epochs": 4, "drop_every": 3, "seeds": 2, "learning_rates": (0.05, 0.02)}
    whole = evaluate(backbone, **given)
    plain, count = Heads.step, []

    def counted(self, *arguments, **more):
        count.append(1)
        if len(count) == at:
            raise KeyboardInterrupt
        return plain(self, *arguments, **more)

    monkeypatch.setattr(Heads, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(backbone, run=Run(progress_key="killed"), **given)
    count[:] = [1] * 100
    assert evaluate(backbone, run=Run(progress_key="killed"), **given) == whole
    assert len(count) - 100 == 12 - (at - 1) // 3 * 3  # epochs of three steps


def test_a_run_that_ends_after_some_scores_does_not_train_what_it_trained(backbone, steps):
    given = {**PLAIN, **FEW, "train_batch": 4}
    whole = evaluate(backbone, **given)
    steps.clear()
    first = probe(**given).run(backbone, DATA, Run(progress_key="ends"))
    kept = list(itertools.islice(first, 3))
    first.close()
    scores = evaluate(backbone, run=Run(progress_key="ends"), **given)
    assert scores == whole and kept == whole[:3]
    assert len(steps) == 3 * (3 + 2 + 1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_was_kept_of_other_seeds_changes_no_number(seeds, backbone):
    given = {**PLAIN, "train_batch": 4}
    gone = probe(**given, seeds=2).run(backbone, DATA, Run(progress_key="gone"))
    next(gone)
    gone.close()
    assert evaluate(backbone, run=Run(progress_key="gone"), **given, seeds=seeds) == evaluate(backbone, **given, seeds=seeds)


def test_the_features_are_computed_once_where_no_image_is_cropped(backbone, monkeypatch):
    seen, plain = [], Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, images: (seen.append(len(images)), plain(self, images))[1])
    evaluate(backbone, seeds=2, fractions=(1, 2))
    assert sum(seen) == len(TRAIN) + len(VAL)
    evaluate(backbone, epochs=5, learning_rates=(0.1, 1.0))
    assert sum(seen) == len(TRAIN) + len(VAL)
    evaluate(backbone, **CROP)
    assert sum(seen) == 4 * len(TRAIN) + len(VAL)


def test_known_points_are_left_out_and_a_limit_holds(backbone):
    known = frozenset(point for point in probe(**FEW).points(DATA) if point[1] == ("seed", 1) or point[0] == ("fraction", 2))
    scores = evaluate(backbone, **FEW, run=Run(known=known, progress_key="known"))
    assert list(values(scores)) == [(1, 0), (8, 0)]
    assert headlines(evaluate(backbone, run=Run(limit=3, progress_key="few")))[0].details["images"] == 3


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_training_images_without_a_class_are_refused(augment, backbone):
    class Void(type(DATA)):
        def label(self, item):
            return np.full((SIDE, SIDE), 255, np.uint8)

    with pytest.raises(UserError, match="no pixel of the 10 training images .*has a class"):
        evaluate(backbone, Void(root=DATA.root), augment=augment)
    with pytest.raises(UserError, match="no pixel of the 2 training images .*has a class"):
        evaluate(backbone, Void(root=DATA.root), augment=augment, run=Run(limit=2, progress_key="two"))


@pytest.mark.parametrize(
    ("fault", "split", "augment"),
    [("value", "train", "none"), ("value", "val", "crop"), ("size", "val", "none"), ("missing", "val", "none"),
     ("broken", "train", "crop"), ("broken", "val", "none")],
)  # fmt: skip
def test_a_wrong_label_map_is_named(fault, split, augment, backbone, tmp_path):
    for part, i in itertools.product(("train", "val"), range(3)):
        for kind, content in zip(("images", "labels"), drawn(f"{part}-{i}"), strict=True):
            (tmp_path / kind / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(tmp_path / kind / part / f"{i}.png")
    (tmp_path / "classes.toml").write_text('classes = ["a", "b", "c", "d"]\nsplits = ["train", "val"]')
    dataset, wrong = open_folder(f"folder:{tmp_path}"), tmp_path / "labels" / split / "1.png"
    assert evaluate(backbone, dataset, augment=augment)
    content = np.full((SIDE, SIDE + (fault == "size")), 7 if fault == "value" else 0, np.uint8)
    Image.fromarray(content).save(wrong)
    if fault == "broken":
        wrong.write_bytes(wrong.read_bytes()[:40])
    if fault == "missing":
        wrong.rename(wrong.with_suffix(".txt"))
    with pytest.raises(UserError, match=re.escape(str(wrong))):
        evaluate(backbone, open_folder(f"folder:{tmp_path}"), augment=augment)


def test_a_size_that_does_not_fit_is_refused(backbone):
    for augment in ("none", "crop"):
        with pytest.raises(UserError, match="30 px"):
            evaluate(backbone, image_size=30, augment=augment)


def test_label_maps_without_augmentation_are_read_once_where_memory_allows(backbone, monkeypatch):
    """Three epochs of ten images; then with room for three of the maps, 100 bytes each."""
    read, plain = [], batches.label_of

    def noted(options, space, item, view):
        read.append(item.name)
        return plain(options, space, item, view)

    monkeypatch.setattr(batches, "label_of", noted)
    expected = values(evaluate(backbone, **PLAIN))
    assert sorted(read) == sorted(TRAIN)
    read.clear()
    monkeypatch.setattr(batches, "HELD_LABELS", 350)
    assert values(evaluate(backbone, **PLAIN)) == expected
    assert len(read) == 3 + 3 * (len(TRAIN) - 3)
