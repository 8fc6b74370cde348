"""kmeans, unsupervised and bbox-knn in several processes: in all of them each score is that of one process, to the last digit."""

from __future__ import annotations

import json

import pytest
import together
from processes_as_threads import in_threads
from runs_of_clusters import RUNS, exact, of_kmeans, of_unsupervised, scores_of
from tiers import late_rows

from densebench.evals.bbox_knn import BboxKnn
from densebench.evals.kmeans import KMeans
from densebench.evals.unsupervised.protocol import Unsupervised
from densebench.evaluation.protocol import Run
from densebench.processes import rank

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from runs_of_clusters import RUNS, scores_of
from densebench.processes import joined

with joined(torch.device("cpu")) as world:
    found = {name: scores_of(name) for name in RUNS}
(Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def alike(found, expected):
    (scores, inertias), (wanted, of_one) = exact(found), exact(expected)
    assert scores == wanted
    assert inertias == pytest.approx(of_one, rel=1e-12)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """They extract the features together too."""
    assert {name.split("/")[1] for name in RUNS} >= {*KMeans.presets, *Unsupervised.presets, *BboxKnn.presets}
    folder = tmp_path / "two"
    folder.mkdir()
    ends = together.run(["-c", SCRIPT, str(tmp_path)], 2, folder)
    assert [end.status for end in ends] == [0, 0], ends
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for name in RUNS:
        alike(first[name], json.loads(json.dumps(scores_of(name))))


THREADS = [("kmeans/neco", 3), ("kmeans/leopart-exact", 7), ("unsupervised/quick", 2), ("bbox-knn/flsl", 12)]


@pytest.mark.parametrize(("name", "size"), late_rows(THREADS, THREADS[0], THREADS[3]))
def test_processes_as_threads_equal_one(name, size):
    """In the case of 7 and in that of 12 there are more of them than images."""
    expected = scores_of(name)
    for found in in_threads(size, lambda: scores_of(name)):
        alike(found, expected)


@pytest.mark.parametrize("name", ["kmeans", "unsupervised"])
def test_the_main_process_draws_what_all_have_clustered(name, tmp_path):
    """Others have no folder for pictures, and take part all the same."""

    def drawn(size):
        def run():
            folder = tmp_path / str(size) if rank() == 0 else None
            run = Run(pictures=folder, progress_key=f"of {size}")
            if name == "kmeans":
                scores = of_kmeans("leopart", visualise=3, run=run)
            else:
                scores = of_unsupervised("label-free", seeds=1, restarts=1, foreground_clusters=10, visualise=2, run=run)
            return [score.json() for score in scores]

        return in_threads(size, run)

    [expected], found = drawn(1), drawn(2)
    assert [exact(scores)[0] for scores in found] == [exact(expected)[0]] * 2
    pictures = [{path.name: path.read_bytes() for path in (tmp_path / size).iterdir()} for size in "12"]
    assert pictures[0] == pictures[1] and len(pictures[0]) == (3 if name == "kmeans" else 2)
