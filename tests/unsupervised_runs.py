"""Runs of the protocol `unsupervised` on made-up images."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_parts import DATA, SIDE, seeing

from densebench import options
from densebench.evals.unsupervised.protocol import Unsupervised
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

COMMUNITY = np.array([1, 1, 2, 2, 0, *[0] * 10])  # of the parts: 4 has no neighbour, and 5 and above are background


VARIANTS = ("kmeans", "cbfe", "cd", "overclustering", "cbfe+cd")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


EXACT = {"image_size": SIDE, "standardise": False, "pca": None, "mask_size": None, "seeds": 1, "foreground_clusters": 10}


EXACT |= {"community_clusters": 5, "weight_threshold": 0.4, "resolution": 1.0, "cut": "0.3", "per_cluster": None}


LOOSE = {"image_size": SIDE, "pca": 12, "mask_size": 40, "seeds": 2, "foreground_clusters": 20, "community_clusters": 12}


def evaluate(dataset=DATA, backbone=None, preset="leopart", run=None, **given):
    evaluator = options.build(Unsupervised, Unsupervised.presets[preset], given).resolve(dataset)
    run = run or Run(progress_key=digest([preset, repr(dataset), sorted(map(str, given.items()))], 16))
    return list(evaluator.run(backbone or seeing(), dataset, run))


def by_variant(scores, seed=0):
    return {(s.metric, s.variant): s for s in scores if s.axes["seed"] == seed}


def values(scores):
    return {(s.axes["seed"], s.metric, s.variant): s.value for s in scores}


def check(score, ious):
    assert list(score.per_class.values()) == pytest.approx(list(ious), abs=1e-3)
    assert score.value == pytest.approx(np.mean(ious), abs=1e-3)
