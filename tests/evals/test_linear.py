"""The linear probe as a whole: against a naive restatement with scikit-learn, and what must not change a number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from retrieval_by_loops import CLASSES, COUNTS, DATA, PATCH, SIDE, backbone, drawn, empty_cache, histogram, patches_of, values
from sklearn.linear_model import LogisticRegression
from tiers import late

from densebench import options
from densebench.errors import UserError
from densebench.evals.linear import logistic as module
from densebench.evals.linear.logistic import Linear
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

__all__ = ["backbone", "empty_cache"]  # fixtures


def evaluate(backbone, dataset=DATA, run=None, **given):
    evaluator = options.build(Linear, {}, given).resolve(dataset)
    return list(evaluator.run(backbone, dataset, run or Run(progress_key=digest(sorted(given), 16))))


def rows_of(backbone, names, labels="soft"):
    """Features, classes and weights of patches, one row a patch and class."""
    features, classes, weights = [], [], []
    for name in names:
        for n, feature in enumerate(patches_of(backbone, name).double().numpy()):
            i, j = divmod(n, SIDE // PATCH)
            counts = histogram(drawn(name)[1][PATCH * i : PATCH * i + PATCH, PATCH * j : PATCH * j + PATCH])
            if not counts.sum():
                continue
            shares = counts / counts.sum() if labels == "soft" else np.eye(CLASSES)[counts.argmax()]
            for c in np.flatnonzero(shares):
                features.append(feature)
                classes.append(c)
                weights.append(shares[c])
    return np.array(features), np.array(classes), np.array(weights)


def fitted(backbone, names, l2, labels="soft", standardise=True):
    """scikit-learn's solution of the same problem, as logits of features as they are."""
    features, classes, weights = rows_of(backbone, names, labels)
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if standardise:
        mean, variance = np.average(features, axis=0, weights=weights), np.zeros(features.shape[1])
        variance = np.average((features - mean) ** 2, axis=0, weights=weights)
        scale = np.sqrt(variance)
    model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-10, max_iter=10000)
    model.fit((features - mean) / scale, classes, sample_weight=weights)
    return lambda x: model.decision_function((x - mean) / scale)


def predicted(backbone, logits_of, name):
    grid = torch.from_numpy(logits_of(patches_of(backbone, name).double().numpy())).view(SIDE // PATCH, SIDE // PATCH, CLASSES)
    return F.interpolate(grid.permute(2, 0, 1)[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def miou(predictions, names):
    found = []
    for c in range(CLASSES):
        agree = union = 0
        for prediction, name in zip(predictions, names, strict=True):
            truth = drawn(name)[1]
            p, t = (prediction == c) & (truth != 255), truth == c
            agree, union = agree + (p & t).sum(), union + (p | t).sum()
        if union:
            found.append(agree / union)
    return 100 * np.mean(found)


TRAIN, VAL = ([f"{split}-{i}" for i in range(COUNTS[split])] for split in ("train", "val"))


GIVEN = [{}, {"labels": "majority"}, {"standardise": False, "l2": (1e-2,)}]


@pytest.mark.parametrize("given", late(GIVEN, *GIVEN[1:]))
def test_the_score_is_that_of_a_naive_restatement(given, backbone):
    given = {"l2": (3e-3,), "tolerance": 1e-6, "iterations": 2000, **given}
    scores = evaluate(backbone, **given)
    logits_of = fitted(backbone, TRAIN, given["l2"][0], given.get("labels", "soft"), given.get("standardise", True))
    expected = miou([predicted(backbone, logits_of, name) for name in VAL], VAL)
    assert values(scores)[1, None] == pytest.approx(expected, abs=0.3)


def test_the_regularisation_is_the_best_on_a_tenth_of_the_images(backbone):
    strengths = (1e-4, 1e-1, 100.0)
    scores = evaluate(backbone, l2=strengths, iterations=1000)
    details = next(s for s in scores if s.variant == "identity" and s.metric == "miou").details
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0)).tolist()
    asked, rest = [TRAIN[i] for i in order[:1]], [TRAIN[i] for i in order[1:]]
    found = {}
    for l2 in strengths:
        logits_of = fitted(backbone, rest, l2)
        found[f"{l2:g}"] = miou([predicted(backbone, logits_of, name) for name in asked], asked)
    assert details["selection"] == {name: pytest.approx(value, abs=1.0) for name, value in found.items()}
    assert details["l2"] == float(max(details["selection"], key=details["selection"].get))
    assert values(scores) == values(evaluate(backbone, l2=(details["l2"],), iterations=1000))


def test_fractions_see_their_images_alone(backbone):
    scores = evaluate(backbone, fractions=(1, 2), seeds=2, subsets="uniform", l2=(1e-2,))
    assert set(values(scores)) == {(1, None), (2, 0), (2, 1)}
    images = {s.axes["fraction"]: s.details["images"] for s in scores}
    assert images == {1: 10, 2: 5}
    alone = evaluate(backbone, fractions=(2,), seeds=1, subsets="uniform", l2=(1e-2,))
    assert values(alone)[2, 0] == values(scores)[2, 0]


@pytest.mark.slow
def test_rows_read_in_every_pass_give_the_same(backbone, monkeypatch, tmp_path):
    kept = evaluate(backbone, l2=(1e-3, 1e-2))
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module, "CHUNK", 20)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "other"))
    assert values(evaluate(backbone, l2=(1e-3, 1e-2))) == pytest.approx(values(kept), abs=0.2)


@pytest.mark.slow
def test_a_killed_run_takes_what_it_fitted(backbone, monkeypatch):
    given = {"fractions": (1, 2), "seeds": 2, "subsets": "uniform", "l2": (1e-3, 1e-2)}
    whole = evaluate(backbone, **given, run=Run(progress_key="whole"))
    calls = []
    fit = module.fit

    def killed(*arguments, **more):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return fit(*arguments, **more)

    monkeypatch.setattr(module, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(backbone, **given, run=Run(progress_key="cut"))
    count = len(calls)
    monkeypatch.setattr(module, "fit", lambda *a, **k: (calls.append(1), fit(*a, **k))[1])
    assert values(evaluate(backbone, **given, run=Run(progress_key="cut"))) == values(whole)
    assert len(calls) - count == 4  # two points are left, each with a selection and a fit


def test_a_fit_that_ends_too_early_is_said(backbone, capsys):
    scores = evaluate(backbone, iterations=2, l2=(1e-6,))
    assert "the fit at 1/1 ended at --iterations 2 above the tolerance" in capsys.readouterr().err
    assert scores[0].details["converged"] is False


def test_one_image_cannot_choose(backbone):
    with pytest.raises(UserError, match=r"choosing among --l2 1e-06,1e-05,0.0001,0.001,0.01 takes two training images"):
        evaluate(backbone, run=Run(limit=1, progress_key="one"))
    assert evaluate(backbone, l2=(1e-2,), run=Run(limit=1, progress_key="one"))


def test_training_images_without_a_class_are_refused(backbone):
    class Void(type(DATA)):
        def label(self, item):
            return np.full((SIDE, SIDE), 255, np.uint8)

    with pytest.raises(UserError, match="no patch of the 10 training images of .* has a class"):
        evaluate(backbone, dataset=Void(root=DATA.root))


def test_a_size_that_does_not_fit_is_refused(backbone):
    with pytest.raises(UserError, match="an image side of 30 px does not fit"):
        evaluate(backbone, image_size=30)


def test_a_size_hinted_and_the_same_size_given_are_one_setting():
    one, other = (options.build(Linear, {}, given).resolve(DATA).settings(DATA) for given in ({}, {"image_size": SIDE}))
    assert one == other


def test_rows_that_are_void_are_not_fitted(backbone, monkeypatch):
    """The first image has one patch without a label, others have some pixels without: neither adds to the labels' mass."""
    masses = []
    fit = module.fit

    def spy(rows, *rest, **more):
        masses.append(sum(float(y.sum()) for _, y in rows()))
        assert all(y.sum(dim=1).allclose(torch.ones(len(y))) for _, y in rows())
        return fit(rows, *rest, **more)

    monkeypatch.setattr(module, "fit", spy)
    evaluate(backbone, l2=(1e-2,))
    assert masses == [pytest.approx(rows_of(backbone, TRAIN)[2].sum())]
    assert masses[0] < len(TRAIN) * (SIDE // PATCH) ** 2


def test_pictures_are_drawn(backbone, tmp_path):
    evaluate(backbone, l2=(1e-2,), visualise=2, run=Run(pictures=tmp_path / "pictures", progress_key="pictures"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_equal_data_sets_under_other_names_of_classes_score_alike(backbone):
    other = replace(DATA, classes=("w", "x", "y", "z"))
    assert values(evaluate(backbone, l2=(1e-2,))) == values(evaluate(backbone, dataset=other, l2=(1e-2,)))


@pytest.mark.slow
def test_presets_that_do_without_mmsegmentation_do_not_import_it():
    text = "import sys, densebench.evals.linear; print({'mmengine', 'mmcv', 'mmseg'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "set()\n"
