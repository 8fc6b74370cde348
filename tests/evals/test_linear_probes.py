"""The published linear probes (Leopart, 2022; CrOC, 2023; NeCo, 2025) against a naive restatement."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_probes import CROP, FEW, TRAIN, Naive, evaluate, headlines, noted_steps, orders, probe, resized
from retrieval_by_loops import CLASSES, DATA, PATCH, Blocks, Clean, drawn, empty_cache, oracle, values
from torch import nn

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.loading import load_backbone
from densebench.evals.linear.probes import LinearProbes
from densebench.evaluation.protocol import Run
from densebench.features.views import CropView
from densebench.files.atomic import digest

__all__ = ["empty_cache"]  # fixture


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(f"pixels:{PATCH}")


@pytest.fixture
def steps(monkeypatch):
    return noted_steps(monkeypatch)


@pytest.mark.parametrize(
    "given",
    [
        {"score_size": None},
        {"score_size": 10, "mask_resample": "nearest-exact"},
        {"score_size": 10, "mask_size": None},
        {"score_size": 13, "mask_size": 21, "momentum": 0.5, "weight_decay": 0.3},
        {"epochs": 6, "drop_every": 2, "seeds": 2, "score_size": 16},
        {"image_size": 48, "mask_size": 17, "score_size": 19},
        {"image_size": 48, "score_size": None},
    ],
    ids=str,
)
def test_the_score_is_that_of_a_naive_restatement(given, backbone):
    scores = evaluate(backbone, **given)
    wanted = probe(**given)
    expected = {
        (1, seed): pytest.approx(Naive(backbone, seed=seed, **given).train([[TRAIN]] * wanted.epochs).score(), abs=2e-3)
        for seed in range(wanted.seeds)
    }
    assert values(scores) == expected


@pytest.mark.parametrize(("kind", "absent"), [("off", "zero"), ("dead", "zero"), ("dead", "skip"), ("class", "skip")])
def test_what_counts_as_a_class(kind, absent, backbone):
    dataset = replace(DATA, reduce_zero_label=True)
    rate, epochs = (0.02, 10) if kind == "class" else (0.1, 30)
    given = {"other_class": kind, "absent": absent, "score_size": None, "learning_rates": (rate,), "epochs": epochs}
    score = headlines(evaluate(backbone, dataset, **given))[0]
    assert score.value == pytest.approx(Naive(backbone, dataset, **given).train([[TRAIN]] * epochs).score(), abs=2e-3)
    mean = np.mean([iou or 0.0 for name, iou in score.per_class.items() if (kind, absent, name) != ("dead", "skip", "other")])
    assert score.value == pytest.approx(mean, abs=2e-3)  # a dead class that nobody predicts is skipped, or is a 0 of the mean
    assert list(score.per_class) == ["other"] * (kind != "off") + ["a", "b", "c", "d"]
    assert (kind == "class") == bool(score.per_class.get("other"))


def test_every_epoch_takes_every_image_once_in_an_order_of_the_seed_and_the_epoch(backbone, steps):
    given = {"seeds": 3, "train_batch": 4, "epochs": 5, "drop_every": 2}
    scores = evaluate(backbone, **given)
    found = orders(backbone, steps, 3)
    assert [[len(batch) for batch in epoch] for epochs in found for epoch in epochs] == [[4, 4, 2]] * 15
    assert all(sorted(itertools.chain(*epoch)) == TRAIN for epochs in found for epoch in epochs)
    assert len({tuple(itertools.chain(*epoch)) for epochs in found for epoch in epochs}) == 15
    assert [factor for *_, factor in steps] == pytest.approx([1, 1, 1] * 2 + [0.1] * 6 + [0.01] * 3)
    for p, epochs in enumerate(found):
        labels = torch.cat([labels[p] for _, labels, _ in steps])
        expected = [resized(drawn(name)[1], 10, exact=False) for epoch in epochs for batch in epoch for name in batch]
        assert np.array_equal(labels.numpy(), np.stack(expected))
        assert values(scores)[1, p] == pytest.approx(Naive(backbone, seed=p, **given).train(epochs).score(), abs=2e-3)
    steps.clear()
    evaluate(backbone, **{**given, "seeds": 1, "learning_rates": (0.5, 0.1), "epochs": 2})
    assert orders(backbone, steps, 3) == [found[0][:2]]


def test_a_fraction_learns_from_its_own_images(backbone, steps):
    scores = headlines(evaluate(backbone, **FEW))
    points = [(fraction, seed) for fraction in (1, 2, 8) for seed in (0, 1)]
    assert [(score.axes["fraction"], score.axes["seed"]) for score in scores] == points
    assert [dict(point) for point in probe(**FEW).points(DATA)] == [score.axes for score in scores]
    chosen = probe(**FEW).choose(DATA, DATA.items("train"), probe(**FEW).points(DATA))
    names = [[name for name, inside in zip(TRAIN, row, strict=True) if inside] for row in chosen]
    taken = [epoch for i in (0, 3, 6) for problem in orders(backbone, steps[i : i + 3], 1) for epoch in problem]
    assert [sorted(batch) for (batch,) in taken] == [row for row in names for _ in range(3)]
    for score, row in zip(scores, names, strict=True):
        assert score.details["images"] == len(row)
        assert score.value == pytest.approx(Naive(backbone, seed=score.axes["seed"]).train([[row]] * 3).score(), abs=2e-3)


def test_the_headline_is_the_best_learning_rate(backbone):
    given = {**FEW, "score_size": None, "epochs": 5}
    scores = evaluate(backbone, learning_rates=(1e-6, 0.02, 2.0), **given)
    best = set()
    for point in probe(**FEW).points(DATA):
        own = [score for score in scores if score.axes == dict(point)]
        found = {score.variant: score.value for score in own if score.metric == "miou" and score.variant.startswith("lr ")}
        assert list(found) == ["lr 1e-06", "lr 0.02", "lr 2"]
        assert (own[-1].metric, own[-1].variant, own[-1].value) == ("miou", "identity", max(found.values()))
        details = own[-1].details
        assert details["learning_rates"] == {name.removeprefix("lr "): pytest.approx(found[name], abs=1e-3) for name in found}
        assert found[f"lr {details['learning_rate']:g}"] == max(found.values())
        best.add(details["learning_rate"])
        chosen = evaluate(backbone, learning_rates=(details["learning_rate"],), **given)
        alone = [score for score in chosen if score.axes == dict(point)]
        own = [replace(score, details={}) for score in own if not score.variant.startswith("lr ")]
        assert own == [replace(score, details={}) for score in alone]
    assert best - {1e-6}


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_the_backbone_stays_as_it_was(augment):
    trunk = nn.Sequential(nn.Conv2d(3, 6, PATCH, PATCH), nn.BatchNorm2d(6), nn.Dropout(0.5))
    model = Backbone(trunk, BackboneInfo("fake", "fake", 6, PATCH), "0" * 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (evaluate(model, augment=augment, run=Run(progress_key=key)) for key in "ab")
    assert first == second  # a dropout that is on would differ
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_features_that_tell_the_class_score_100():
    given = {"mask_size": 4, "score_size": 4, "epochs": 60, "drop_every": 60, "learning_rates": (1.0,), "train_batch": 5}
    scores = evaluate(oracle(), Clean(root=Path()), **given, eval_split="train")
    assert values(scores) == {(1, 0): 100}


def test_a_crop_of_its_own_for_every_epoch_seed_and_image(backbone, steps, monkeypatch):
    """What a step is given are the features of crops and the same crops' label maps; the score is what it makes of them."""
    seen, image, label = {}, CropView.image, CropView.label

    def spy(self, kind, found, name):
        seen.setdefault((self, name), {})[kind] = found
        return found

    monkeypatch.setattr(CropView, "image", lambda self, given, name: spy(self, "image", image(self, given, name), name))
    monkeypatch.setattr(CropView, "label", lambda self, given, name: spy(self, "label", label(self, given, name), name))
    given = {**CROP, "image_size": 48, "mask_size": 17, "seeds": 2, "learning_rates": (0.01,), "train_batch": 4}
    scores = evaluate(backbone, **given)
    names = {DATA.image_digest(item): item.name for item in DATA.items("train")}
    assert len(seen) == len(TRAIN) * 3 * 2
    assert sorted(names[name] for _, name in seen) == sorted(TRAIN * 6)
    assert {view.size for view, _ in seen} == {48}
    assert len({found["image"].numpy().tobytes() for found in seen.values()}) > 54  # few are equal by chance
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)
    grids = torch.cat([backbone(((found["image"] - mean) / std)[None]) for found in seen.values()])
    labels = np.stack([resized(found["label"].numpy(), 17, exact=False) for found in seen.values()])
    assert [tuple(features.shape) for features, *_ in steps] == [(2, 4, 6, 6, 192), (2, 4, 6, 6, 192), (2, 2, 6, 6, 192)] * 3
    used, batches = [], [[], []]
    for (features, found, _), p in itertools.product(steps, (0, 1)):
        places = torch.cdist(features[p].movedim(-1, 1).flatten(1), grids.flatten(1)).argmin(1)
        assert torch.equal(grids[places], features[p].movedim(-1, 1))
        assert np.array_equal(labels[places], found[p].numpy())
        used += places.tolist()
        batches[p].append([(grids[place].double(), torch.from_numpy(labels[place]).long()) for place in places])
    assert len(set(used)) > 54
    for p in (0, 1):
        epochs = [batches[p][i : i + 3] for i in (0, 3, 6)]
        assert values(scores)[1, p] == pytest.approx(Naive(backbone, seed=p, **given).train(epochs).score(), abs=2e-3)


def test_colours_of_crops_tell_the_labels(steps):
    """Where the label is the same all over a patch, it is the class of the patch's colour."""
    evaluate(oracle(), Clean(root=Path()), **{**CROP, "image_size": 128, "mask_size": 128})
    for features, labels, _ in steps:
        bright = features.max(-1)
        told = torch.where(bright.values > 0.5, bright.indices, CLASSES - 1)
        near = torch.stack([labels[..., 4 + i :: PATCH, 4 + j :: PATCH] for i in (-3, 0, 3) for j in (-3, 0, 3)])
        alike = (near == near[:1]).all(0)
        assert alike.float().mean() > 0.3
        assert (told == near[0])[alike].all()


def test_classes_that_no_training_image_shows_are_recorded(backbone):
    @dataclass(frozen=True, kw_only=True)
    class Fewer(Blocks):
        def label(self, item):
            label = super().label(item)
            label[label == 2] = 0 if item.name.startswith("train") else 2
            label[label == 3] = 0 if item.name in TRAIN[1:] else 3
            return label

        def label_digest(self, item):
            return digest(["fewer", item.name])

    dataset = Fewer(root=Path())
    evaluator = probe(dataset=dataset, fractions=(1, 2), seeds=4, subsets="uniform")
    chosen = evaluator.choose(dataset, dataset.items("train"), evaluator.points(dataset))
    scores = headlines(evaluator.run(backbone, dataset, Run(progress_key="absent")))
    assert [score.details["absent"] for score in scores] == [["c"] if row[0] else ["c", "d"] for row in chosen]
    assert len({len(score.details["absent"]) for score in scores}) == 2


def test_pictures_are_drawn(backbone, tmp_path):
    evaluate(backbone, visualise=2, run=Run(pictures=tmp_path / "pictures", progress_key="pictures"))
    assert [path.name for path in sorted((tmp_path / "pictures").glob("val-*"))] == ["val-0.png", "val-3.png"]


@pytest.mark.parametrize(
    ("preset", "own"),
    [
        ("neco", {"train_batch": 128, "score_size": 100, "other_class": "dead"}),
        ("leopart", {"train_batch": 120, "score_size": None, "other_class": "off"}),
        ("croc", {"train_batch": 120, "score_size": None, "other_class": "off"}),
    ],
)
def test_the_presets_are_the_published_ones(preset, own, backbone):
    found = options.build(LinearProbes, LinearProbes.presets[preset], {})
    rest = {"image_size": 448, "augment": "crop", "mask_size": 100, "absent": "zero", "mask_resample": "nearest", "seeds": 1}
    rest |= {"learning_rates": (0.01,), "momentum": 0.9, "weight_decay": 1e-4, "epochs": 25, "drop_every": 20, "fractions": (1,)}
    assert {name: getattr(found, name) for name in {**rest, **own}} == {**rest, **own}
    scores = evaluate(backbone, preset=preset, augment="crop")
    assert scores[-1] == headlines(scores)[0]
    assert 0 < scores[-1].value < 100
