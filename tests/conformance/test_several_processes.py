"""Every protocol of the catalogue gives in two processes what it gives in one: the same scores in the same record.

Counts are equal. Where sums over processes add in another order, values agree to 1e-6 of a point; details that tell the work
itself (such as how many neighbours a process searched twice) are left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import together

from densebench import catalog

SCRIPT = """
import json, os, sys, traceback
from pathlib import Path
import densebench
from densebench import catalog
from tiny_protocols import tiny

name, presets = sys.argv[1], sys.argv[2:]
top, rank, scores = Path.cwd(), os.environ["RANK"], {}
for preset in presets:
    folder = top / rank / preset
    folder.mkdir(parents=True)
    os.chdir(folder)  # so that the data have the same relative path in every process
    evaluator, backbone, dataset = tiny(name, preset, Path())
    try:
        result = densebench.evaluate(backbone, evaluator, dataset, results=top / "results")
        scores[preset] = [[record["id"], record["scores"]] for record in result.records]
    except Exception:
        scores[preset] = traceback.format_exc()
(top / (rank + ".json")).write_text(json.dumps(scores))
"""
MEASURED = ("value", "ci95", "per_class", "bootstrap", "details")
PRESETS = [
    (name, part.presets) for name, entry in catalog.entries("protocols").items() for part in (entry, *entry.others)
]  # fmt: skip


def scored(name, presets, processes, folder):
    """What each process gets by the presets, `[id, scores]` for each record; or the error as text."""
    folder.mkdir()
    ends = together.run(["-c", SCRIPT, name, *presets], processes, folder)
    assert [end.status for end in ends] == [0] * processes, ends
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "presets"), PRESETS, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_two_processes_equal_one(name, presets, tmp_path):
    [one], (main, other) = scored(name, presets, 1, tmp_path / "one"), scored(name, presets, 2, tmp_path / "two")
    for preset in presets:
        assert not isinstance(one[preset], str), one[preset]
        assert not isinstance(main[preset], str), main[preset]
        assert other[preset] == [], "the main process alone gets records"
        [[id_, expected]], [[same_id, found]] = one[preset], main[preset]
        assert same_id == id_
        assert [named(score) for score in found] == [named(score) for score in expected]
        assert compared(found) == pytest.approx(compared(expected), abs=1e-6, nan_ok=True), preset


def named(score):
    """What names a score: its metric, its variant and its point."""
    return json.dumps({name: value for name, value in score.items() if name not in MEASURED}, sort_keys=True)


def compared(scores):
    """The values of scores, with the classes' and the intervals', by what names them."""
    values = {}
    for score in scores:
        key = named(score)
        values[key] = score["value"]
        values |= {f"{key} {end}": value for end, value in enumerate(score.get("ci95") or ())}
        values |= {f"{key} {of}": value for of, value in (score.get("per_class") or {}).items() if value is not None}
    return values


UNAWARE = """
from dataclasses import dataclass
from densebench.evaluation.option_groups import Supervised
from densebench.evaluation.labels import LabelSpace
from densebench.features.extract import Extraction
from densebench.features.views import View
from densebench.options import setting
from densebench.results.score import Score

@dataclass(frozen=True)
class Mean(Supervised):
    '''The mean of all features: a protocol that knows nothing of other processes.'''
    version = 1
    presets = {"a": {}}
    side: int = setting(32, "side in px")

    def headline(self):
        return {"metric": "mean", "variant": "plain"}

    def run(self, backbone, dataset, run):
        _, split = self.splits(dataset)
        items = dataset.part(split, run.limit)
        features = self.extracted(Extraction(backbone, dataset, items, View(backbone.stride, self.side)))
        total = sum(features[item].double().sum().item() for item in items)
        yield Score("mean", "plain", round(total, 6), unit="", direction="higher", digits=6, details={"images": len(features)})
"""
CALL = ["eval", "--protocol", "./unaware.py", "--backbone", "random:test_vit", "--dataset", "scenes", "--limit", "20", "--json"]


@pytest.mark.slow
def test_a_protocol_that_knows_nothing_of_processes_gives_the_same(tmp_path):
    records = []
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "unaware.py").write_text(UNAWARE)
        ends = together.run(["-m", "densebench", *CALL], processes, folder)
        assert [end.status for end in ends] == [0] * processes, ends
        assert [end.out for end in ends[1:]] == [""] * (processes - 1), "the main process alone prints"
        records.append(json.loads(ends[0].out))
        [path] = (folder / "results" / "records").glob("*.json")
        assert Path(path).stem == records[-1]["id"]
    assert records[0]["id"] == records[1]["id"] and records[0]["scores"] == records[1]["scores"]


ELSEWHERE = """
import os
from pathlib import Path
import densebench
from filmed import write

here = Path(os.environ["RANK"])
write(here, "boat", 3 + int(os.environ["RANK"]), 1)
os.chdir(here)
densebench.evaluate("pixels:8", "vos", "frames:.", results="../results", device="cpu")
"""


@pytest.mark.slow
def test_processes_that_see_other_data_score_nothing(tmp_path):
    ends = together.run(["-c", ELSEWHERE], 2, tmp_path)
    assert [end.status for end in ends] == [1, 1]
    assert "process 1 would write the record" in ends[1].err and "they see other data" in ends[1].err
    assert not [*(tmp_path / "results" / "records").glob("*.json")]


LATE = """
import os, time
import torch
from densebench.errors import UserError
from densebench.processes import GRACE, joined, settled

with joined(torch.device("cpu")):
    if os.environ["RANK"] == "0":
        time.sleep(GRACE + 3)
    settled(UserError("rank " + os.environ["RANK"]))
"""


@pytest.mark.slow
def test_a_process_that_fails_after_another_has_given_up_ends_too(tmp_path):
    late, first = together.run(["-c", LATE], 2, tmp_path, seconds=60)
    assert (late.status, first.status) == (1, 1)
    assert "UserError: rank 0" in late.err and "UserError: rank 1" in first.err
