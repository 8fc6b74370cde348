"""Stages: what a protocol declares to extract is what its run writes to the cache, to the byte."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from safetensors import safe_open
from tiny_protocols import PRESETS, tiny

from densebench.evals.kmeans import KMeans
from densebench.evaluation.estimate import declared, needed
from densebench.evaluation.protocol import Run


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def written(root: Path) -> dict[str, int]:
    """Bytes of all tensors under features/, by folder."""
    found: dict[str, int] = defaultdict(int)
    for path in root.glob("cache/features/*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found[path.parent.name] += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    return dict(found)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_what_is_declared_is_what_a_run_writes(name, preset, tmp_path):
    evaluator, backbone, dataset = tiny(name, preset, tmp_path)
    stages = declared(evaluator, backbone, dataset, Run())
    if not stages:
        pytest.skip(f"{name} declares no stages")
    total, missing = needed(stages)
    folders = {stage.extraction.folder.name for stage in stages if stage.extraction is not None}
    assert written(tmp_path) == {}  # to declare is not to do
    assert all(evaluator.run(backbone, dataset, Run(progress_key="key")))
    found = written(tmp_path)
    assert set(found) == folders
    assert sum(found.values()) == total == missing
    assert needed(stages) == (total, 0)


def test_a_class_with_its_own_run_does_not_inherit_stages(tmp_path):
    class Other(KMeans):
        def run(self, backbone, dataset, run):
            yield from super().run(backbone, dataset, run)

    class Renamed(KMeans):
        pass

    _, backbone, dataset = tiny("kmeans", "leopart", tmp_path)
    made = [kind(image_size=32).resolve(dataset) for kind in (Other, Renamed)]
    assert declared(made[0], backbone, dataset, Run()) == [] != declared(made[1], backbone, dataset, Run())


def test_known_points_need_no_images_of_train(tmp_path):
    evaluator, backbone, dataset = tiny("incontext", "hummingbird", tmp_path)
    run = Run(known=frozenset(evaluator.points(dataset)))
    names = [
        stage.name for stage in declared(evaluator, backbone, dataset, run) if "train" not in stage.name and stage.extraction
    ]
    [train] = [s for s in declared(evaluator, backbone, dataset, run) if s.extraction is not None and s.extraction.augmented]
    assert names == ["features of the scored split"] and not train.items
