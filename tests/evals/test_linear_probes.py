"""The published linear probes (Ziegler and Asano 2022, Stegmüller et al. 2023, Pariza et al. 2025), as a whole.

Against a naive restatement (features upsampled to the label map, nn.Conv2d, CrossEntropyLoss, torch.optim.SGD), what must not
change a number, what a run that was killed goes on from, and the random crops on ramps whose values are their coordinates.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from densebench.evals.linear.probes import LinearProbes
from PIL import Image
from retrieval_by_loops import (
    CLASSES,
    COUNTS,
    DATA,
    PATCH,
    SIDE,
    Blocks,
    Clean,
    backbone,
    drawn,
    empty_cache,
    oracle,
    patches_of,
    values,
)
from torch import nn

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.datasets.folder import open_folder
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.features.views import CropView
from densebench.files.atomic import digest
from densebench.numerics.sgd_layers import Heads

__all__ = ["backbone", "empty_cache"]  # fixtures

TRAIN, VAL = ([f"{split}-{i}" for i in range(COUNTS[split])] for split in ("train", "val"))
PLAIN = {"image_size": SIDE, "augment": "none", "mask_size": 10, "learning_rates": (0.02,), "epochs": 3, "workers": 0}
CROP = {**PLAIN, "augment": "crop", "train_batch": 4}
FEW = {"fractions": (1, 2, 8), "seeds": 2, "subsets": "uniform"}
keys = map(str, itertools.count())


def probe(preset="neco", dataset=DATA, **given):
    return options.build(LinearProbes, LinearProbes.presets[preset], {**PLAIN, **given}).resolve(dataset)


def evaluate(backbone, dataset=DATA, run=None, preset="neco", **given):
    return list(probe(preset, dataset, **given).run(backbone, dataset, run or Run(progress_key=next(keys))))


def headlines(scores):
    return [score for score in scores if (score.metric, score.variant) == ("miou", "identity")]


def resized(label, side, exact):
    """A label map by nearest neighbour: the label under the centre of the output pixel, or the one under its corner."""
    rows, columns = (np.floor((np.arange(side) + exact / 2) * length / side).astype(int) for length in label.shape)
    return label[rows][:, columns]


def grid_of(backbone, name, side=SIDE):
    if side == SIDE:
        return patches_of(backbone, name).T.reshape(-1, SIDE // PATCH, SIDE // PATCH).double()
    image = torch.from_numpy(drawn(name)[0]).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
    return backbone((image - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1))[0].double()


class Naive:
    """One seed at one learning rate, all in float64."""

    def __init__(self, backbone, dataset=DATA, seed=0, **given):
        self.backbone, self.wanted = backbone, probe(dataset=dataset, **given)
        shift = dataset.reduce_zero_label and self.wanted.other_class != "off"
        self.table = np.arange(256) + (np.arange(256) < 255) * shift
        self.table[255] = 0 if shift and self.wanted.other_class == "class" else 255
        self.classes, width = CLASSES + shift, 3 * PATCH * PATCH
        begin = Heads(width, self.classes, [1.0], [seed], momentum=0.0, weight_decay=0.0).weights.detach()[0, 0].double()
        self.layer = nn.Conv2d(width, self.classes, 1).double()
        self.layer.weight.data, self.layer.bias.data = begin[:-1].T[..., None, None].clone(), begin[-1].clone()

    def label(self, name, size):
        seen = resized(self.table[drawn(name)[1]], self.wanted.image_size, exact=True)  # as Pillow
        return torch.from_numpy(resized(seen, size or self.wanted.image_size, self.wanted.mask_resample == "nearest-exact"))

    def pair(self, name):
        return grid_of(self.backbone, name, self.wanted.image_size), self.label(name, self.wanted.mask_size)

    def train(self, epochs):
        """Epochs are lists of batches, batches are lists of names, or of grids and label maps."""
        wanted, side = self.wanted, self.wanted.mask_size or self.wanted.image_size
        (rate,) = wanted.learning_rates
        sgd = torch.optim.SGD(self.layer.parameters(), rate, wanted.momentum, weight_decay=wanted.weight_decay)
        for epoch, batches in enumerate(epochs):
            sgd.param_groups[0]["lr"] = rate * 0.1 ** (epoch // wanted.drop_every)
            for batch in batches:
                pairs = [self.pair(entry) if isinstance(entry, str) else entry for entry in batch]
                grids, labels = map(torch.stack, zip(*pairs, strict=True))
                logits = self.layer(F.interpolate(grids, (side, side), mode="bilinear", align_corners=False))
                sgd.zero_grad()
                nn.CrossEntropyLoss(ignore_index=255)(logits, labels).backward()
                sgd.step()
        return self

    def score(self):
        agree, union = np.zeros(self.classes), np.zeros(self.classes)
        side = self.wanted.score_size or self.wanted.image_size
        for name in VAL:
            grid = grid_of(self.backbone, name, self.wanted.image_size)[None]
            with torch.no_grad():
                found = self.layer(F.interpolate(grid, (side, side), mode="bilinear", align_corners=False))[0].argmax(0).numpy()
            truth = self.label(name, self.wanted.score_size).numpy()
            for c in range(self.classes):
                p, t = (found == c) & (truth != 255), truth == c
                agree[c], union[c] = agree[c] + (p & t).sum(), union[c] + (p | t).sum()
        ious = np.where(union > 0, agree / np.maximum(union, 1), 0 if self.wanted.absent == "zero" else np.nan)
        return 100 * np.nanmean(ious)


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


@pytest.mark.parametrize("absent", ["zero", "skip"])
@pytest.mark.parametrize("kind", ["off", "dead", "class"])
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


@pytest.fixture
def steps(monkeypatch):
    """What every step was given."""
    seen, plain = [], Heads.step

    def step(self, features, labels, factor=1.0):
        seen.append((features.detach().clone(), labels.clone(), factor))
        return plain(self, features, labels, factor)

    monkeypatch.setattr(Heads, "step", step)
    return seen


def orders(backbone, steps, per_epoch):
    """The names of images in batches in epochs of every problem, told by their features."""
    known = torch.stack([grid_of(backbone, name).permute(1, 2, 0) for name in TRAIN]).flatten(1).float()
    batches = [torch.cdist(features.flatten(2).float(), known[None]).argmin(-1) for features, *_ in steps]
    found = [[[TRAIN[i] for i in batch[p]] for batch in batches] for p in range(len(batches[0]))]
    return [[problem[i : i + per_epoch] for i in range(0, len(problem), per_epoch)] for problem in found]


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


@pytest.mark.parametrize("given", [PLAIN | {"train_batch": 3}, CROP | {"epochs": 1}], ids=["none", "crop"])
def test_means_do_not_change_a_number(given, backbone, monkeypatch, tmp_path):
    expected = values(evaluate(backbone, **given, seeds=2))
    for i, means in enumerate([{"batch_size": 1}, {"batch_size": 3}, {"workers": int(given["augment"] == "crop")}]):
        monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / f"cache {i}"))
        assert values(evaluate(backbone, **{**given, **means}, seeds=2)) == expected


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
        told = re.fullmatch(r"diverged at (?:epoch )?(\d+)(?: of 4)?", score.details["learning_rates"]["1e+30"])
        assert told and int(told[1]) in late  # of the first three steps the second or the third sees it
    with pytest.raises(UserError, match="1e\\+30"):
        evaluate(backbone, **{**given, "learning_rates": (1e30, 1e31)})


@pytest.mark.parametrize("given", [PLAIN | {"train_batch": 4}, CROP], ids=["none", "crop"])
@pytest.mark.parametrize("at", [2, 7, 12], ids=lambda at: f"step {at}")
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


def test_classes_that_no_training_image_shows_are_told(backbone):
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


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_training_images_without_a_class_are_refused(augment, backbone):
    class Void(type(DATA)):
        def label(self, item):
            return np.full((SIDE, SIDE), 255, np.uint8)

    with pytest.raises(UserError, match="no pixel of the 10 training images .*has a class"):
        evaluate(backbone, Void(root=DATA.root), augment=augment)
    with pytest.raises(UserError, match="no pixel of the 2 training images .*has a class"):
        evaluate(backbone, Void(root=DATA.root), augment=augment, run=Run(limit=2, progress_key="two"))


@pytest.mark.parametrize("augment", ["none", "crop"])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fault", ["value", "size", "missing", "broken"])
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


def test_known_points_are_left_out_and_a_limit_holds(backbone):
    known = frozenset(point for point in probe(**FEW).points(DATA) if point[1] == ("seed", 1) or point[0] == ("fraction", 2))
    scores = evaluate(backbone, **FEW, run=Run(known=known, progress_key="known"))
    assert list(values(scores)) == [(1, 0), (8, 0)]
    assert headlines(evaluate(backbone, run=Run(limit=3, progress_key="few")))[0].details["images"] == 3


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


def ramps(width, height):
    """An image whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1)), x, y


def boxes(width, height, size, count):
    """Left, top, width and height (as shares) and mirroring of many crops, read off the ramps."""
    image, _, _ = ramps(width, height)
    for key in range(count):
        red, green, _ = (CropView(size, f"key {key}").image(image, "digest") * 255).double()
        inner = slice(size // 4, size - size // 4)  # edges are clamped
        wide, high = (red[0, inner].diff().mean() * size).item(), (green[inner, 0].diff().mean() * size).item()
        yield red.mean().item() - abs(wide) / 2, green.mean().item() - high / 2, abs(wide), high, wide < 0


@pytest.mark.parametrize(("width", "height"), [(150, 120), (110, 130)])
def test_crops_have_the_area_and_aspect_that_was_published_and_half_are_mirrored(width, height):
    left, top, wide, high, mirrored = np.array(list(boxes(width, height, 64, 300))).T
    area, aspect = wide * high / width / height, wide / high
    assert 0.785 < area.min() < 0.82 and 0.95 < area.max() < 1.01
    assert aspect.min() > 0.74 and aspect.max() < 1.35 and aspect.max() / aspect.min() > 1.3
    assert left.min() > -1.5 and (left + wide).max() < width + 0.5 and left.std() > 2
    assert top.min() > -1.5 and (top + high).max() < height + 0.5 and top.std() > 2
    assert 105 < mirrored.sum() < 195


@pytest.mark.parametrize(("width", "height", "size"), [(150, 120, 64), (90, 110, 224), (200, 100, 32)])
def test_image_and_label_of_a_crop_are_the_same_part(width, height, size):
    image, x, y = ramps(width, height)
    for key in range(20):
        view = CropView(size, str(key))
        pixels = view.image(image, "digest") * 255
        assert pixels.shape == (3, size, size) and pixels.dtype == torch.float32
        for channel, coordinate in zip(pixels, (x, y), strict=False):
            label = view.label(coordinate, "digest")
            assert label.shape == (size, size) and label.dtype == torch.uint8
            assert (channel - label.float()).abs()[2:-2, 2:-2].max() < 0.75


def test_a_crop_is_decided_by_its_key_and_the_image():
    image, x, _ = ramps(150, 120)
    first = CropView(32, "a").image(image, "one"), CropView(32, "a").label(x, "one")
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(first[0], CropView(32, "a").image(image, "one"))
    assert torch.equal(first[1], CropView(32, "a").label(x, "one"))
    for key, name in (("b", "one"), ("a", "two")):
        assert not torch.equal(first[0], CropView(32, key).image(image, name))
        assert not torch.equal(first[1], CropView(32, key).label(x, name))
    label = np.random.default_rng(0).choice(np.array([3, 77, 255], np.uint8), (120, 150))
    assert set(CropView(32, "a").label(label, "one").unique().tolist()) == {3, 77, 255}
