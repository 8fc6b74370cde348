"""`densebench eval --gpus 2`: one that dies or fails ends the call with its message, and the same call resumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
PROTOCOL = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from densebench.errors import UserError
from densebench.evaluation.option_groups import Supervised
from densebench.features.extract import Extraction
from densebench.features.views import View
from densebench.options import axis
from densebench.processes import collected, dealt, synchronise
from densebench.results.score import Score

@dataclass(frozen=True)
class Mean(Supervised):
    '''The mean of all features, of three seeds; process 1 ends at the second one, as the file END says.'''
    version = 1
    presets = {"a": {}}
    seeds: int = axis(3, "seeds", minimum=1)

    def headline(self):
        return {"metric": "mean", "variant": "plain"}

    def points(self, dataset):
        return [(("seed", seed),) for seed in range(self.seeds)]

    def run(self, backbone, dataset, run):
        items = dataset.part(self.splits(dataset)[1], run.limit)
        features = self.extracted(Extraction(backbone, dataset, items, View(backbone.stride, 32)))
        for point in self.points(dataset):
            if point in run.known:
                continue
            if os.environ.get("RANK") == "1" and point == (("seed", 1),) and Path("END").exists():
                if Path("END").read_text() == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise UserError("process 1 cannot go on; give it more")
            total = sum(collected([features[item].double().sum().item() for item in dealt(items)]))
            yield Score("mean", "plain", round(total, 6), unit="", axes=dict(point), direction="higher", digits=6)
            synchronise()
"""
WORDS = [
    "-m",
    "densebench",
    "eval",
    "--protocol",
    "./mine.py",
    "--backbone",
    "random:test_vit",
    "--dataset",
    "scenes",
    "--device",
]


def call(folder, *words):
    own = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, *WORDS, "cpu", "--limit", "4", *words]
    return subprocess.run(start, cwd=folder, env=own, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("killed", 1, "process 1 of 2 was ended by SIGKILL (out of memory?); finished work is saved, and the same call resumes"),
        ("failed", 2, "process 1 cannot go on; give it more"),
    ],
)
def test_one_that_ends_ends_the_call_which_resumes(end, status, said, tmp_path):
    (tmp_path / "mine.py").write_text(PROTOCOL)
    (tmp_path / "END").write_text(end)
    ended = call(tmp_path, "--gpus", "2")
    assert ended.returncode == status, ended
    told = [line for line in ended.stderr.splitlines() if line.startswith("densebench: ")]
    assert len(told) == 1 and said in told[0] and "Traceback" not in ended.stderr
    [path] = (tmp_path / "results" / "records").glob("*.json")
    begun = json.loads(path.read_text())
    assert [score["seed"] for score in begun["scores"]] == [0]
    (tmp_path / "END").unlink()
    resumed = call(tmp_path, "--gpus", "2", "--json")
    assert resumed.returncode == 0, resumed
    record = json.loads(resumed.stdout)
    assert record["status"] == "complete" and record["run"]["scored_points"] == 2
    one = call(tmp_path, "--results", "of-one", "--json")
    assert json.loads(one.stdout)["scores"] == record["scores"]
