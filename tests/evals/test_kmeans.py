"""The protocol `kmeans` as a whole: a naive restatement in float64, exact arithmetic on hand-made features, invariances, errors.

Ziegler and Asano, Leopart, CVPR 2022 (standardise, PCA, K-means on the scored images, matching by labels); Salehi et al., TimeT,
ICCV 2023 (features upsampled first); Pariza et al., NeCo, ICLR 2025 (a dead class 0); Kuhn, the Hungarian method, 1955.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from densebench.evals.kmeans import KMeans
from PIL import Image

from densebench import options
from densebench.datasets import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.protocol import Run
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.numerics import bootstrap
from densebench.numerics import kmeans as clustering

SIDE, PATCH, CLASSES, WIDTH, IMAGES = 32, 8, 4, 12, 7
GRID = SIDE // PATCH
COLOURS = np.array([[40, 40, 200], [200, 60, 60], [60, 190, 90], [190, 190, 170]])


@functools.cache
def drawn(name: str, noise: float = 45.0, block: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one colour a class, mostly not square, in blocks that do not fit the patches, with some void."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    height, width = (40, 56) if int(name.split("-")[1]) % 3 else (SIDE, SIDE)
    blocks = rng.choice(CLASSES, (7, 7), p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8)
    label = blocks.repeat(block, 0).repeat(block, 1)[:height, :width]
    image = np.clip(COLOURS[label] + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)
    label[rng.random(label.shape) < 0.05] = 255
    return image, label


@dataclass(frozen=True, kw_only=True)
class Blocks(Dataset):
    name: str = "blocks"
    title: str = "blocks"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size_hint: int = SIDE
    noise: float = 45.0
    block: int = 9
    order: tuple[int, ...] = tuple(range(IMAGES))

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in (self.order if split == "val" else range(3)))

    def image(self, item):
        return Image.fromarray(drawn(item.name, self.noise, self.block)[0])

    def label(self, item):
        return drawn(item.name, self.noise, self.block)[1].copy()

    def image_size(self, item):
        return self.image(item).size

    def image_digest(self, item):
        return digest([type(self).__name__, item.name, self.noise, self.block])

    label_digest = image_digest


class Random(torch.nn.Module):
    """Random linear features of patches, of unequal scales and means."""

    mean, std, stride, dim = (0.5,) * 3, (0.5,) * 3, PATCH, WIDTH

    def __init__(self, scale=1.0, shift=0.0, order=tuple(range(WIDTH))):
        super().__init__()
        rng = np.random.default_rng(5)
        weight = 0.3 * rng.normal(size=(WIDTH, 3, 1, 1)) + rng.normal(0, 0.06, (WIDTH, 3, PATCH, PATCH))
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("scale", (torch.linspace(0.05, 2, WIDTH) * torch.as_tensor(scale)).view(-1, 1, 1).float())
        self.register_buffer("shift", (torch.linspace(3, -1, WIDTH) + shift).view(-1, 1, 1).float())
        self.order = list(order)
        self.spec = self.digest = digest(["random", str(scale), str(shift), str(order)])
        self.eval()

    def forward(self, images):
        return (F.conv2d(images, self.weight, stride=PATCH) * self.scale + self.shift)[:, self.order]

    def check_size(self, height, width):
        if height % PATCH or width % PATCH:
            raise UserError(f"an image side of {height} px does not fit: use a multiple of {PATCH}")

    def identity(self):
        return {"digest": self.digest}


class Means(Random):
    """The mean colour of every patch: tells the class where patches are of one class."""

    dim = 3

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.spec = self.digest = f"means {factor}"

    def forward(self, images):
        return F.avg_pool2d(images, PATCH) * self.factor


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone():
    return Random()


DATA = Blocks(root=Path())
ALIGNED = Blocks(root=Path(), noise=4.0, block=8, order=(0, 3, 6))  # square images, whose blocks are the patches
SMALL = {"image_size": None, "pca": 5, "mask_size": 18, "seeds": 1}
NO_PCA = {"image_size": None, "pca": None, "mask_size": 18, "seeds": 1}


def evaluate(backbone, dataset=DATA, preset="leopart", run=None, **given):
    evaluator = options.build(KMeans, KMeans.presets[preset], given).resolve(dataset)
    return list(evaluator.run(backbone, dataset, run or Run(progress_key=digest([preset, sorted(map(str, given.items()))], 16))))


def by_point(scores):
    """Scores of miou by K, seed and variant."""
    return {(s.axes["K"], s.axes["seed"], s.variant): s for s in scores if s.metric == "miou"}


def values(scores):
    return {key: score.value for key, score in by_point(scores).items()}


def naive_tokens(backbone, dataset, names, standardise=True, pca=5, upsample=None):
    """One row a token, float64: standardised by population moments, projected by the covariance's eigenvectors, upsampled."""
    rows = []
    for name in names:
        view = View(PATCH, SIDE).image(dataset.image(Item(name, None, None)), "")
        with torch.no_grad():
            grid = backbone(((view - 0.5) / 0.5)[None])[0]
        rows += [grid[:, i, j].double().numpy() for i in range(GRID) for j in range(GRID)]
    rows = np.array(rows)
    if standardise:
        rows = (rows - rows.mean(0)) / np.sqrt(((rows - rows.mean(0)) ** 2).mean(0))
    if pca is not None:
        centred = rows - rows.mean(0)
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        rows = centred @ vectors[:, np.argsort(-eigenvalues)[:pca]]
    if upsample:
        grids = torch.from_numpy(rows).view(len(names), GRID, GRID, -1).permute(0, 3, 1, 2)
        larger = F.interpolate(grids, (upsample, upsample), mode="bilinear", align_corners=False)
        rows = larger.permute(0, 2, 3, 1).reshape(len(names) * upsample**2, -1).numpy()
    return rows


def naive_label(dataset, name, mask_size, mask_resample, other):
    label = dataset.label(Item(name, None, None))
    if other != "off":
        label = np.where(label == 255, 0 if other == "class" else 255, label.astype(int) + 1).astype(np.uint8)
    for side, resample in ((SIDE, "nearest-exact"), (mask_size or SIDE, mask_resample)):
        height, width = label.shape
        found = np.zeros((side, side), np.uint8)
        half = 0.5 if resample == "nearest-exact" else 0.0
        for i, j in itertools.product(range(side), repeat=2):
            found[i, j] = label[int((i + half) * height / side), int((j + half) * width / side)]
        label = found
    return label


def naive_confusions(label_maps, cluster_maps, classes, k):
    confusions = np.zeros((len(label_maps), classes, k), dtype=int)
    for n, (label, grid) in enumerate(zip(label_maps, cluster_maps, strict=True)):
        for i, j in itertools.product(range(len(label)), repeat=2):
            if label[i, j] != 255:
                confusions[n, label[i, j], grid[i * len(grid) // len(label), j * len(grid) // len(label)]] += 1
    return confusions


def iou_table(confusion):
    table = np.zeros(confusion.shape)
    for c, k in np.ndindex(*table.shape):
        union = confusion[c].sum() + confusion[:, k].sum() - confusion[c, k]
        table[c, k] = confusion[c, k] / union if union else 0
    return table


def naive_matching(confusion, kind):
    """The class of every cluster; one to one by trying all of them."""
    classes, k = confusion.shape
    table = iou_table(confusion)
    if kind == "precision":
        return confusion.argmax(0)
    if kind == "iou":
        return table.argmax(0)
    if k < classes:
        every = itertools.permutations(range(classes), k)
        return np.array(max(every, key=lambda chosen: sum(table[c, n] for n, c in enumerate(chosen))))
    every = itertools.permutations(range(k), classes)
    best = max(every, key=lambda chosen: sum(table[c, n] for c, n in enumerate(chosen)))
    return np.array([best.index(n) if n in best else 0 for n in range(k)])


def naive_tallies(confusions, matching):
    """Per image and class: pixels that agree, of the truth, of the prediction."""
    n, classes, _ = confusions.shape
    tallies = np.zeros((n, 3, classes), dtype=int)
    for image, c in itertools.product(range(n), range(classes)):
        named = confusions[image][:, matching == c]
        tallies[image, :, c] = named[c].sum(), confusions[image, c].sum(), named.sum()
    return tallies


def naive_ious(tally):
    agree, truth, prediction = tally
    union = truth + prediction - agree
    return [100 * a / u if u else None for a, u in zip(agree, union, strict=True)]


def naive_mean(ious, absent):
    kept = [v for v in ious if v is not None] if absent == "skip" else [v or 0.0 for v in ious]
    return np.mean(kept)


FIT = {"restarts": 5, "iterations": 100, "init": "points", "per_cluster": 256, "spherical": False}


def naive(backbone, dataset, names, k, seed, given):
    """Every variant's tallies of images, and the inertia of the tokens that were trained on."""
    fit = {name: given.get(name, value) for name, value in FIT.items()}
    rows = naive_tokens(backbone, dataset, names, given["standardise"], given["pca"], given["upsample"])
    found = clustering.kmeans(torch.from_numpy(rows).float(), k, seed=seed, **fit)
    centroids = found.centroids.double().numpy()
    distances = np.array([[((row - centroid) ** 2).sum() for centroid in centroids] for row in rows])
    trained = clustering.sample(len(rows), k, fit["per_cluster"], seed).numpy()
    side = given["upsample"] or GRID
    cluster_maps = distances.argmin(1).reshape(len(names), side, side)
    other = given.get("other_class", "off") if dataset.reduce_zero_label else "off"
    classes = len(dataset.classes) + (other != "off")
    label_maps = [naive_label(dataset, name, given["mask_size"], given["mask_resample"], other) for name in names]
    confusions = naive_confusions(label_maps, cluster_maps, classes, k)
    kinds = ("hungarian", "precision", "iou")
    tallies = {kind: naive_tallies(confusions, naive_matching(confusions.sum(0), kind)) for kind in kinds}
    auto = "hungarian" if k == classes else "precision"
    tallies["matched"] = tallies[auto if given.get("match", "auto") == "auto" else given["match"]]
    return tallies, distances[trained].min(1).sum()


FIVE = replace(DATA, classes=("a", "b", "c", "d", "never"))
ZERO = replace(DATA, reduce_zero_label=True)


@pytest.mark.parametrize(
    ("dataset", "given"),
    [
        (DATA, {}),
        (DATA, {"pca": None}),
        (DATA, {"standardise": False, "pca": 2}),
        (DATA, {"standardise": False, "pca": None, "init": "k-means++", "restarts": 1, "per_cluster": None}),
        (DATA, {"per_cluster": 6}),
        (DATA, {"restarts": 1, "iterations": 2}),
        (DATA, {"spherical": True}),
        (DATA, {"upsample": 6, "mask_size": 20}),
        (DATA, {"upsample": 9, "pca": 3, "per_cluster": 20}),
        (DATA, {"mask_size": None}),
        (DATA, {"mask_size": 21, "mask_resample": "nearest-exact"}),
        (DATA, {"match": "iou"}),
        (FIVE, {"absent": "zero"}),
        (FIVE, {"absent": "skip"}),
        (ZERO, {"other_class": "off"}),
        (ZERO, {"other_class": "dead"}),
        (ZERO, {"other_class": "class"}),
    ],
    ids=lambda value: ",".join(f"{n}={v}" for n, v in value.items()) if isinstance(value, dict) else "",
)
def test_every_number_is_that_of_a_naive_restatement(backbone, dataset, given):
    """K below, at and above the number of classes; all variants; inertia, classes, bootstrap."""
    given = {"image_size": None, "standardise": True, "pca": 5, "upsample": None, "absent": "zero", **given}
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
    scores = evaluate(Means(), ALIGNED, preset, **{**given, "mask_size": 32, "clusters": (4, 7)})
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
    found = values(evaluate(Means(0.0), **{**NO_PCA, **given}, clusters=(k,), restarts=2))
    labels = np.concatenate([naive_label(DATA, f"val-{i}", 18, "nearest", "off").ravel() for i in range(IMAGES)])
    counts = np.bincount(labels[labels != 255], minlength=CLASSES)
    assert list(found.values()) == pytest.approx([100 * counts.max() / counts.sum() / CLASSES] * len(found), abs=1e-3)


@pytest.mark.parametrize("per_cluster", [None, 4])
def test_engines_agree_on_easy_features(per_cluster):
    given = {**NO_PCA, "clusters": (4,), "per_cluster": per_cluster, "restarts": 20, "mask_size": 20}
    scores = {engine: evaluate(Means(), ALIGNED, engine=engine, **given) for engine in ("torch", "faiss", "sklearn")}
    for engine in ("faiss", "sklearn"):
        assert values(scores[engine]) == values(scores["torch"])
        assert scores[engine][-1].details["inertia"] == pytest.approx(scores["torch"][-1].details["inertia"], rel=0.02)
    rows = naive_tokens(Means(), ALIGNED, ["val-0", "val-3", "val-6"], pca=None)
    rows = rows[clustering.sample(len(rows), 4, per_cluster, 0).numpy()]
    naive_fit = clustering.kmeans(torch.from_numpy(rows).float(), 4, per_cluster=None, restarts=20)
    assert scores["torch"][-1].details["inertia"] == pytest.approx(naive_fit.inertia, rel=0.02)


@pytest.mark.parametrize("pca", [None, 5])
@pytest.mark.parametrize(
    "other",
    [{"scale": np.linspace(-3, 4, WIDTH), "shift": 20.0}, {"order": (3, 0, 7, 11, 1, 5, 2, 4, 10, 9, 8, 6)}],
    ids=["scaled", "permuted"],
)
def test_standardised_features_may_be_scaled_shifted_and_permuted(backbone, pca, other):
    given = {**SMALL, "pca": pca, "clusters": (4, 6), "seeds": 2}
    assert values(evaluate(Random(**other), **given)) == values(evaluate(backbone, **given))
    if "scale" in other:
        assert values(evaluate(Random(**other), **given, standardise=False)) != values(evaluate(backbone, **given))


def test_all_principal_components_are_all_features(backbone):
    given = {**NO_PCA, "clusters": (4, 6), "seeds": 2}
    everything = values(evaluate(backbone, **given))
    assert values(evaluate(backbone, **{**given, "pca": WIDTH})) == everything
    assert values(evaluate(backbone, **{**given, "pca": 1})) != everything


def test_the_order_of_images_is_nothing():
    given = {**NO_PCA, "per_cluster": None, "clusters": (4,), "restarts": 30, "mask_size": 20}
    data = replace(DATA, noise=4.0, block=8, order=(0, 3, 6, 1))  # the last is not square: its patches mix classes
    expected = values(evaluate(Means(), data, **given))
    assert max(expected.values()) < 100
    assert values(evaluate(Means(), replace(data, order=(1, 6, 0, 3)), **given)) == expected


@pytest.mark.parametrize("runtime", [{"batch_size": 1}, {"batch_size": 3}, {"workers": 1}, {"device": "cpu"}], ids=str)
def test_runtime_options_do_not_change_a_number(backbone, runtime):
    assert values(evaluate(backbone, **SMALL, **runtime)) == values(evaluate(backbone, **SMALL))


def test_a_number_does_not_depend_on_what_else_is_asked_and_known_points_are_left_out(backbone):
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


def test_the_backbone_is_untouched():
    backbone = Random()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    evaluate(backbone, **SMALL)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert backbone.weight.grad is None
    assert backbone.weight.requires_grad
    assert not backbone.training


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
    leopart |= {"standardise": True, "pca": 50, "upsample": None, "spherical": False, "init": "points"}
    leopart |= {"restarts": 5, "iterations": 100, "per_cluster": 256}
    full = {"standardise": False, "pca": None, "per_cluster": None, "init": "k-means++", "restarts": 1, "absent": "skip"}
    expected = {
        "leopart": leopart,
        "leopart-exact": leopart | {"whole_batches": 60},
        "neco": leopart | {"other_class": "dead"},
        "croc": leopart,
        "timet": leopart | {"upsample": 112, "iterations": 50, "mask_size": 112},
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
    given |= {"upsample": 14} if preset == "timet" else {}
    found = values(evaluate(Means(), preset=preset, **given))
    assert 25 < found[4, 0, "matched"] <= 100
