"""Scores of positions against a restatement by loops and numpy's least squares, and the order of shuffled patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from placed_features import DATA, GRID, SIDE, STRIDE, Mixed, backbone, scores

from densebench.evals.position.shuffled import ShuffledView, shuffled
from densebench.features.views import View, named_generator

L2 = 1e-3
TRUTH = np.array([[row + 0.5, column + 0.5] for row in range(GRID) for column in range(GRID)]) / GRID


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def unit(rows):
    return np.array([row / np.sqrt((row**2).sum()) for row in rows])


def passed(pixels):
    """The features of pictures in 0..1, patch by patch: a list of [patches, d]."""
    trunk = backbone(Mixed())
    mean, std = (torch.tensor(values)[:, None, None] for values in (trunk.mean, trunk.std))
    with torch.no_grad():
        found = [trunk(((each - mean) / std)[None])[0] for each in pixels]
    return [np.array([grid[:, r, c].numpy() for r in range(GRID) for c in range(GRID)], np.float64) for grid in found]


def seen(split, name):
    """The pixels of a split's pictures under an input; patches are moved one by one."""
    pictures = []
    for item in DATA.items(split):
        pixels = torch.from_numpy(np.array(DATA.image(item))).movedim(2, 0) / 255
        moved = pixels.clone()
        if name == "shuffled":
            order = named_generator(f"shuffle 0 {DATA.image_digest(item)}").permutation(GRID * GRID)
            for to, source in enumerate(order.tolist()):
                (r, c), (y, x) = ((STRIDE * (number // GRID), STRIDE * (number % GRID)) for number in (to, source))
                moved[:, r : r + STRIDE, c : c + STRIDE] = pixels[:, y : y + STRIDE, x : x + STRIDE]
        pictures.append(moved)
    return pictures


def naive(name, removed, kind):
    """Squared and absolute errors of row and column for each picture that is read, [n, patches, 2]."""
    fit, read = ([unit(rows) for rows in passed(seen(split, name))] for split in ("train", "val"))
    if removed:
        shape = (8, 3, SIDE, SIDE) if kind == "noise" else (1, 3, SIDE, SIDE)
        empty = np.random.default_rng(0).random(shape, np.float32) if kind == "noise" else np.zeros(shape, np.float32)
        means = np.mean([unit(rows) for rows in passed(torch.from_numpy(empty))], axis=0)
        _, lengths, vectors = np.linalg.svd(means - means.mean(axis=0))
        vectors = vectors[: min(removed, (lengths > 1e-5 * GRID).sum())]  # of the black image there are three
        fit, read = ([unit(rows - rows @ vectors.T @ vectors) for rows in part] for part in (fit, read))
    rows, target = np.concatenate(fit), np.tile(TRUTH, (len(fit), 1))
    variance = np.mean(rows.var(axis=0))
    width = rows.shape[1]
    left = np.block([[rows, np.ones((len(rows), 1))], [np.sqrt(L2 * variance * len(rows)) * np.eye(width), np.zeros((width, 1))]])
    solved = np.linalg.lstsq(left, np.concatenate([target, np.zeros((width, 2))]), rcond=None)[0]
    return np.array([part @ solved[:-1] + solved[-1] - TRUTH for part in read])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return scores(backbone(Mixed()), removed=(0, 5))


@pytest.mark.parametrize(
    ("name", "removed", "kind"),
    [("natural", 0, "noise"), ("shuffled", 0, "noise"), ("natural", 5, "black"), ("shuffled", 5, "noise")],
)
def test_scores_are_those_of_a_restatement(found, name, removed, kind):
    missed = naive(name, removed, kind)
    spread = ((TRUTH - TRUTH.mean(axis=0)) ** 2).sum(axis=0)
    r2 = [1 - sum((picture[:, axis] ** 2).sum() for picture in missed) / (len(missed) * spread[axis]) for axis in (0, 1)]
    assert found[name, removed, kind, "r2_row"].value == pytest.approx(r2[0], abs=2e-5)
    assert found[name, removed, kind, "r2_column"].value == pytest.approx(r2[1], abs=2e-5)
    assert found[name, removed, kind, "r2"].value == pytest.approx(sum(r2) / 2, abs=2e-5)
    assert found[name, removed, kind, "patch_error"].value == pytest.approx(GRID * np.abs(missed).mean(), abs=2e-5)


def test_draws_are_r2_of_the_sums_over_the_pictures_that_are_drawn(found):
    missed = naive("shuffled", 0, "noise")
    squares, spread = (missed**2).sum(axis=1), ((TRUTH - TRUTH.mean(axis=0)) ** 2).sum(axis=0)
    times = np.random.Generator(np.random.PCG64(0)).multinomial(len(missed), np.full(len(missed), 1 / len(missed)), size=100)
    expected = []
    for drawn in times:
        residual, total = np.zeros(2), np.zeros(2)
        for picture, often in zip(squares, drawn, strict=True):
            residual, total = residual + often * picture, total + often * spread
        expected.append(np.mean(1 - residual / total))
    score = found["shuffled", 0, "noise", "r2"]
    np.testing.assert_allclose(score.bootstrap[:100], expected, atol=2e-5)
    assert score.ci95[0] <= score.value <= score.ci95[1]


def test_the_share_of_the_position_is_that_of_the_means_of_positions(found):
    grids = np.array([unit(rows) for rows in passed(seen("val", "natural"))])
    means, mean = grids.mean(axis=0), grids.mean(axis=(0, 1))
    expected = ((means - mean) ** 2).sum(axis=1).mean() / ((grids - mean) ** 2).sum(axis=2).mean()
    score = found["natural", 0, "noise", "position_share"]
    assert score.value == pytest.approx(100 * expected, abs=1e-3)
    assert score.details["without_position"] == pytest.approx(100 / 8)


def test_shuffling_moves_every_square_once():
    pixels = torch.arange(3 * 6 * 4).view(3, 6, 4).float()
    order = torch.tensor([5, 0, 1, 2, 4, 3])
    moved = shuffled(pixels, 2, order)
    for to, source in enumerate(order.tolist()):
        (r, c), (y, x) = ((2 * (number // 2), 2 * (number % 2)) for number in (to, source))
        assert torch.equal(moved[:, r : r + 2, c : c + 2], pixels[:, y : y + 2, x : x + 2])
    assert torch.equal(shuffled(moved, 2, order.argsort()), pixels)


def test_the_order_is_drawn_from_the_seed_and_the_picture_and_the_label_follows_it():
    item = DATA.items("val")[0]
    image, label, mark = DATA.image(item), DATA.label(item), DATA.image_digest(item)
    view, other = ShuffledView(STRIDE, SIDE), ShuffledView(STRIDE, SIDE, shuffle_seed=1)
    assert torch.equal(view.image(image, mark), view.image(image, mark))
    assert not torch.equal(view.image(image, mark), other.image(image, mark))
    assert not torch.equal(view.image(image, mark), view.image(image, "another"))
    identities = [each.identity() for each in (view, other, View(STRIDE, SIDE))]
    assert len({str(each) for each in identities}) == 3
    squares = [each.label(label, mark).view(GRID, STRIDE, GRID, STRIDE)[:, 0, :, 0] for each in (view, View(STRIDE, SIDE))]
    assert sorted(squares[0].flatten().tolist()) == sorted(squares[1].flatten().tolist())
    brightness = [
        each.image(image, mark).mean(dim=0).view(GRID, STRIDE, GRID, STRIDE).mean(dim=(1, 3))
        for each in (view, View(STRIDE, SIDE))
    ]
    by_class = dict(zip(squares[1].flatten().tolist(), brightness[1].flatten().tolist(), strict=True))
    for label_there, value in zip(squares[0].flatten().tolist(), brightness[0].flatten().tolist(), strict=True):
        assert value == pytest.approx(by_class[label_there], abs=0.02)
