"""The protocol as a whole: against a naive restatement, and what must not change a number."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from densebench.evals.incontext import protocol, voting
from densebench.evals.incontext.protocol import InContext
from PIL import Image

from densebench import options
from densebench.backbones import load_backbone
from densebench.datasets import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

COUNTS = {"train": 10, "val": 4}
SIDE, PATCH, CLASSES = 32, 8, 4


@functools.cache
def drawn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one grey a class, in blocks that do not fit the patches, with some void."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    label = rng.integers(0, CLASSES, (5, 5)).repeat(7, 0).repeat(7, 1)[:SIDE, :SIDE].astype(np.uint8)
    image = np.clip(label[..., None] * 60 + 30 + rng.normal(0, 35, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    label[rng.random((SIDE, SIDE)) < 0.05] = 255
    label[:9, :9] = 255 if name == "train-0" else label[:9, :9]
    return image, label


@dataclass(frozen=True, kw_only=True)
class Blocks(Dataset):
    name: str = "blocks"
    title: str = "blocks"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size_hint: int = SIDE

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(COUNTS[split]))

    def image(self, item):
        return Image.fromarray(drawn(item.name)[0])

    def label(self, item):
        return drawn(item.name)[1].copy()

    def image_size(self, item):
        return SIDE, SIDE

    def image_digest(self, item):
        return digest(["blocks", item.name])

    label_digest = image_digest


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(f"pixels:{PATCH}")


DATA = Blocks(root=Path())
PLAIN = {"augment_epochs": 0, "neighbours": (5,), "memory_size": None}


def evaluate(backbone, dataset=DATA, preset="hummingbird", **given):
    evaluator = options.build(InContext, InContext.presets[preset], given).resolve(dataset)
    return list(evaluator.run(backbone, dataset, Run(progress_key=digest([preset, sorted(given)], 16))))


def headline(scores):
    return next(s for s in scores if (s.metric, s.variant) == ("miou", "identity"))


def values(scores, metric="miou", variant="identity"):
    return {(s.axes["fraction"], s.axes["seed"]): s.value for s in scores if (s.metric, s.variant) == (metric, variant)}


def patches_of(backbone, name):
    image = torch.from_numpy(drawn(name)[0]).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)
    grid = backbone(((image - mean) / std)[None])[0]
    return grid.flatten(1).T


def histogram(block):
    return np.array([(block == c).sum() for c in range(CLASSES)], dtype=float)


def naive(backbone, train, k=5, temperature=0.02, metric="cosine", labels="soft", weighting="softmax", memory_norm="channels"):
    """The whole protocol in loops over images, patches and pixels, in float64."""
    keys, shares = [], []
    for name in train:
        label, first = drawn(name)[1], len(keys)
        for n, feature in enumerate(patches_of(backbone, name).double()):
            i, j = divmod(n, SIDE // PATCH)
            counts = histogram(label[PATCH * i : PATCH * i + PATCH, PATCH * j : PATCH * j + PATCH])
            if counts.sum():
                keys.append(feature.numpy())
                shares.append(counts / counts.sum() if labels == "soft" else np.eye(CLASSES)[counts.argmax()])
        if memory_norm == "patches":
            keys[first:] = list(np.array(keys[first:]) / np.linalg.norm(keys[first:], axis=0))
    keys, shares = np.array(keys), np.array(shares)
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for v in range(COUNTS["val"]):
        scores = []
        for feature in patches_of(backbone, f"val-{v}").double().numpy():
            cosine = keys @ feature / np.linalg.norm(keys, axis=1) / np.linalg.norm(feature)
            near = cosine if metric == "cosine" else -((keys - feature) ** 2).sum(1)
            near = keys @ feature if memory_norm == "patches" else near
            best = np.argsort(-near, kind="stable")[:k]
            weights = np.exp((cosine[best] - cosine[best].max()) / temperature) if weighting == "softmax" else np.ones(k)
            scores.append(weights / weights.sum() @ shares[best])
        grid = torch.tensor(np.array(scores)).view(SIDE // PATCH, SIDE // PATCH, CLASSES).permute(2, 0, 1)[None]
        predicted = torch.nn.functional.interpolate(grid, (SIDE, SIDE), mode="bilinear")[0].argmax(0).numpy()
        truth = drawn(f"val-{v}")[1]
        for t, p in zip(truth[truth != 255], predicted[truth != 255], strict=True):
            confusion[t, p] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return 100 * np.mean(confusion.diagonal() / union)


TRAIN = [f"train-{i}" for i in range(COUNTS["train"])]


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


def naive_pixels(backbone, train, k):
    """CAPI's vote in loops: standardised features, cosine, the mode of the neighbours' labels pixel by pixel, void included."""
    every = torch.cat([patches_of(backbone, name) for name in train]).double().numpy()
    mean, deviation = every.mean(0), every.std(0)
    keys, blocks = [], []
    for name in train:
        label = drawn(name)[1]
        for n, feature in enumerate(patches_of(backbone, name).double().numpy()):
            i, j = divmod(n, SIDE // PATCH)
            block = label[PATCH * i : PATCH * i + PATCH, PATCH * j : PATCH * j + PATCH].flatten()
            if np.bincount(block).argmax() != 255:
                keys.append((feature - mean) / deviation)
                blocks.append(block)
    keys = np.array(keys) / np.linalg.norm(keys, axis=1, keepdims=True)
    tally = np.zeros((CLASSES + 1, CLASSES + 1), dtype=np.int64)
    for v in range(COUNTS["val"]):
        truth = drawn(f"val-{v}")[1]
        for n, feature in enumerate(patches_of(backbone, f"val-{v}").double().numpy()):
            i, j = divmod(n, SIDE // PATCH)
            best = np.argsort(-(keys @ ((feature - mean) / deviation)), kind="stable")[:k]
            votes = np.array([blocks[b] for b in best])
            for pixel in range(PATCH * PATCH):
                t = truth[PATCH * i + pixel // PATCH, PATCH * j + pixel % PATCH]
                if t != 255:
                    tally[t, min(np.bincount(votes[:, pixel]).argmax(), CLASSES)] += 1
    union = tally.sum(0) + tally.sum(1) - tally.diagonal()
    return 100 * np.mean(tally.diagonal()[union > 0] / union[union > 0])


def test_pixelwise_votes_equal_a_naive_restatement(backbone):
    given = {"image_size": SIDE, "resample": "bilinear", "neighbours": (4,), "metric": ("cosine",)}
    found = values(evaluate(backbone, preset="capi", **given))
    assert found[1, None] == pytest.approx(naive_pixels(backbone, TRAIN, 4), abs=2e-3)


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


def test_known_points_are_not_scored_again(backbone):
    evaluator = InContext(fractions=(1, 2), seeds=2, neighbours=(5,)).resolve(DATA)
    known = frozenset(point for point in evaluator.points(DATA) if dict(point)["fraction"] == 1)
    scores = list(evaluator.run(backbone, DATA, Run(known=known, progress_key="known")))
    assert {score.axes["fraction"] for score in scores} == {2}


def test_work_in_progress_is_taken_up(backbone, monkeypatch):
    """A run that dies while scoring goes on from what it kept, to the same scores."""
    monkeypatch.setattr(protocol, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(voting, "QUERIES", 1)
    expected = evaluate(backbone, **PLAIN)
    evaluator, run = InContext(**PLAIN).resolve(DATA), Run(progress_key="dies")
    labelled = []

    def dies(self, grids, shapes, k, plain=voting.Voter.label_maps):
        labelled.append(len(grids))
        if len(labelled) == 3:
            raise KeyboardInterrupt
        return plain(self, grids, shapes, k)

    with monkeypatch.context() as patch:
        patch.setattr(voting.Voter, "label_maps", dies)
        with pytest.raises(KeyboardInterrupt):
            list(evaluator.run(backbone, DATA, run))
        assert list(evaluator.run(backbone, DATA, run)) == expected
    assert len(labelled) == 5  # two images before it died, the third twice, the fourth once


class Oracle(torch.nn.Module):
    """The feature of a patch is the colour of its centre."""

    mean, std, stride, dim, spec, digest = (0.0,) * 3, (1.0,) * 3, PATCH, 3, "oracle", "oracle"

    def forward(self, images):
        return images[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]

    def check_size(self, height, width):
        pass

    def identity(self):
        return {"digest": "oracle"}


@dataclass(frozen=True, kw_only=True)
class Clean(Blocks):
    """The colour tells the class; blocks of the size of patches."""

    def image(self, item):
        return Image.fromarray(np.eye(CLASSES, 3, dtype=np.uint8)[self.label(item)] * 200 + 20)

    def image_digest(self, item):
        return digest(["clean", item.name])

    def label(self, item):
        rng = np.random.default_rng(int(digest(item.name, 8), 16))
        return rng.integers(0, CLASSES, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)


def test_perfect_features_score_100():
    """With the label itself as the feature, only patches that mix classes can be wrong."""

    scores = evaluate(Oracle(), Clean(root=Path()), **PLAIN, score_at="patch")
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
