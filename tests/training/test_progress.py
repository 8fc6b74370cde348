"""Work in progress: a run without a key neither takes what other runs left nor leaves anything."""

from __future__ import annotations

import pytest
from drawn_maps import QUIET
from drawn_objects import Drawn, small_vit
from tiers import late

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.incontext import voting
from densebench.evaluation.protocol import Run
from densebench.files.atomic import cache_root

SCENES = {"image_size": 64, "device": "cpu", "workers": 0}
PROTOCOLS = {
    "incontext": ("hummingbird", {"fractions": (1,), "neighbours": (3,), "augment_epochs": 0, **SCENES}),
    "linear": ("lbfgs", {"fractions": (1,), "l2": (0.01,), "iterations": 3, **SCENES}),
    "probes": ("neco", {"fractions": (1,), "seeds": 1, "epochs": 2, **SCENES}),
    "mmseg": ("mmseg", {"iterations": 2, "learning_rates": (0.01,), "crop_size": 64, "train_batch": 2, "workers": 0}),
}
pytestmark = QUIET


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(voting, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(voting, "QUERIES", 1)


def scored(name, preset, given, backbone, dataset):
    kind = catalog.load("protocols", name, preset)
    evaluator = options.build(kind, kind.presets[preset], given).resolve(dataset)
    return [(score.metric, score.variant, score.value) for score in evaluator.run(backbone, dataset, Run(limit=2))]


@pytest.mark.parametrize("name", late(PROTOCOLS, "linear", "incontext"))
def test_a_run_without_a_key_takes_nothing_of_another(name, tmp_path, monkeypatch):
    preset, given = PROTOCOLS[name]
    protocol = name if name == "incontext" else "linear"
    first, second = (load_backbone("random:test_vit", seed=seed) for seed in (0, 1))
    dataset = load_dataset("scenes")
    scored(protocol, preset, given, first, dataset)
    after = scored(protocol, preset, given, second, dataset)
    assert not list((cache_root() / "scoring").glob("*"))
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "other"))
    assert after == scored(protocol, preset, given, second, dataset)


def test_a_detection_without_a_key_takes_nothing_of_another(tmp_path):
    given = {"width": 8, "short_side": 80, "train_batch": 1, "regions": 8, "detections": 10, "iterations": 1, "device": "cpu"}
    for _ in range(2):
        assert scored("detection", "flsl", {**given, "workers": 0}, small_vit(dim=16), Drawn(root=tmp_path))
        assert not list((cache_root() / "scoring").glob("*"))


def test_a_workspace_lasts_under_its_key_and_goes_without_one():
    with Run(progress_key="a").workspace("b") as first, Run(progress_key="a").workspace("b") as second:
        assert first == second
    with Run().workspace("b") as first, Run().workspace("b") as second:
        assert first != second
        assert first.is_dir()
    assert not first.exists()


def test_processes_that_share_their_work_need_a_key():
    with (
        pytest.raises(UserError, match="2 processes share their work by its name: give Run a progress_key"),
        Run().workspace("a", 2),
    ):
        pass
