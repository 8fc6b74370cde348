"""Linear probes and `vos` in several processes, played by threads; `test_probes_together.py` has real ones and more cases."""

from __future__ import annotations

import pytest
from filmed import LENGTHS, OBJECTS, write
from probes_together import parts_of
from processes_as_threads import in_threads

from densebench.evals.linear import logistic
from densebench.evaluation.protocol import Run
from densebench.numerics import sgd_layers


@pytest.fixture(autouse=True)
def small_parts(tmp_path, monkeypatch):
    """An empty cache, and several parts of little data."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sgd_layers, "CHUNK", 2**12)
    monkeypatch.setattr(logistic, "CHUNK", 20)


@pytest.mark.parametrize(("case", "size"), [("lbfgs by rows", 2), ("neco", 3), ("vos dino", 4)])
def test_processes_as_threads_equal_one(case, size, tmp_path):
    """Four are more than there are videos."""
    for name in LENGTHS if case == "vos dino" else ():
        write(tmp_path / "videos", name, LENGTHS[name], OBJECTS[name])
    evaluator, backbone, dataset = parts_of(case, tmp_path)

    def scores(of):
        run = Run(None, progress_key=f"of {of}")
        return [score.json() for score in evaluator.run(backbone, dataset, run)]

    expected = scores(1)
    assert len(expected) > 2
    for found in in_threads(size, lambda: scores(size)):
        assert found == expected
