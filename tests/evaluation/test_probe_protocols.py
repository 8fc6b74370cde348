"""Protocols of every kind can be asked again and again: the same number each time, and no image decoded twice."""

from __future__ import annotations

from collections import Counter

import drawn_parts
import filmed
import pytest
import toy_boxes
import unsupervised_runs
from filmed import videos  # noqa: F401
from growing import LIMIT

import densebench
from densebench import options
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.bbox_knn import BboxKnn
from densebench.evals.unsupervised.protocol import Unsupervised


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that data sets decode, once `watch` has seen one of them."""
    counts = Counter()

    def watch(dataset):
        kind, image = type(dataset), type(dataset).image

        def counting(self, item):
            counts["images"] += 1
            return image(self, item)

        monkeypatch.setattr(kind, "image", counting)
        monkeypatch.setattr(kind, "image_size", lambda self, item: image(self, item).size)
        return counts

    return watch


def asked_twice(dataset, protocol, model, cache, decoded, **given):
    """The value of a protocol that is asked twice; nothing is decoded at the second time, and no feature is written."""
    counts = decoded(dataset)
    asked = densebench.Probe(dataset, protocol, **given)
    first = asked(model, 0)
    assert counts["images"] > 0
    counts.clear()
    assert asked(model, 1) == first and not counts
    assert not (cache / "features").exists()
    return first


@pytest.mark.parametrize("name", ["linear", "kmeans"])
def test_label_maps(cache, decoded, name):
    given = {"linear": {"l2": (1e-3,), "iterations": 20}, "kmeans": {"seeds": 1, "image_size": 64, "pca": None}}[name]
    asked_twice(load_dataset("scenes"), name, "pixels:16", cache, decoded, limit=LIMIT, device="cpu", **given)


def test_boxes(cache, decoded):
    knn = options.build(BboxKnn, BboxKnn.presets["flsl"], {**toy_boxes.SMALL, "device": "cpu"})
    value = asked_twice(toy_boxes.DATA, knn, toy_boxes.backbone(), cache, decoded)
    [score] = [one for one in toy_boxes.score() if dict(one.axes) == {"k": 1} and (one.metric, one.variant) == headline(knn)]
    assert value == score.value


def test_objects_in_front_of_a_background(cache, decoded):
    given = {**Unsupervised.presets["leopart"], **unsupervised_runs.EXACT, "device": "cpu"}
    protocol = options.build(Unsupervised, given, {})
    value = asked_twice(drawn_parts.DATA, protocol, drawn_parts.seeing(), cache, decoded)
    [score] = [
        one for one in unsupervised_runs.evaluate(**unsupervised_runs.EXACT) if (one.metric, one.variant) == headline(protocol)
    ]
    assert value == score.value


def test_videos(cache, decoded, videos):  # noqa: F811
    given = {"short_side": "64", "radius": "3", "context": "3", "device": "cpu"}
    value = asked_twice(load_dataset(f"frames:{videos}"), "vos", "pixels:8", cache, decoded, **given)
    assert value == filmed.values(filmed.run(videos))["jf_mean"]


def headline(protocol):
    return tuple(protocol.headline().values())


def test_a_data_root_may_be_a_text(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        densebench.Probe("voc", "incontext", data_root=str(tmp_path / "none"))
