"""Every shipped table as a rehearsal, from beginning to end, by one command for all of them: small networks, generated data."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import pytest
from dataset_files import GENERATED
from tiers import late

from densebench.results import record as records
from densebench.results.against import against
from densebench.results.provenance import REHEARSAL
from densebench.tables.carrying_out import Job
from densebench.tables.cells import Places, cells
from densebench.tables.shipped import shipped
from densebench.tables.states import TableFolder
from densebench.tables.table_file import read_table

NAMES = list(shipped())
REHEARSED = ["arch=test_vit", "data=scenes", "epochs=1", "iterations=2", "limit=4", "batch_size=2"]
SMALLER = [
    "group_size=2", "memory=16", "out_dim=64", "object_dim=64", "hidden_dim=64", "bottleneck_dim=32",
    "train_batch=2", "width=16", "regions=16", "detections=10",
    "validations=1", "crop_size=64", "stride=64", "learning_rates=0.01",
]  # fmt: skip
"""What makes the slower methods and protocols faster, where a table has them."""


def overrides(name):
    """Return the overrides of a table as `--set` takes them."""
    by_boxes = any(entry.protocol == "bbox-knn" for entry in read_table(name).evaluations)  # it crops 224 px of the short side
    return REHEARSED + SMALLER + ([] if by_boxes else ["short_side=128"])


@pytest.mark.parametrize("name", late(NAMES, "cribo-5", "croc-2", "flsl-4", "neco-1"))
def test_one_rehearsal_is_taken_by_every_shipped_table(name):
    table, small = (cells(read_table(name, given), Places()) for given in ([], REHEARSED))
    assert {(cell.kind, cell.backbone) for cell in small} == {(cell.kind, cell.backbone) for cell in table}
    assert {cell.dataset for cell in small if cell.dataset} <= GENERATED
    assert not [cell for cell in small if cell.weights]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_table_runs_from_beginning_to_end(name, tmp_path, monkeypatch):
    for variable in (REHEARSAL, "CUDA_VISIBLE_DEVICES"):  # a job sets them for its process, and here that is this one
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    command = ["run", name, *(f"--set={given}" for given in overrides(name))]
    table = read_table(name, overrides(name))
    folder = TableFolder(Path("results", "rehearsals", name), name)
    asked = cells(table, Places(results=folder.results, runs=Path("runs", "rehearsals")))
    for cell in asked:
        Job(cell, folder, rehearsal=True)()
    assert {cell.label: folder.noted(cell).get("problem") for cell in asked if folder.noted(cell)["state"] != "done"} == {}

    done = command_line.call(*command, folder=tmp_path)
    assert done.status == 0 and f"{len(asked)} of {len(asked)} cells done" in done.err, done.err
    found = json.loads(command_line.call(*command, "--status", "--json", folder=tmp_path).out)
    assert [(cell["label"], cell["state"]) for cell in found["cells"]] == [(cell.label, "done") for cell in asked]
    made = [records.read(path) for path in (folder.results / "records").glob("*.json")]
    assert made and all(record["run"]["rehearsal"] and record["dataset"]["limit"] == 4 for record in made)
    assert [cell.label for cell in asked if cell.kind == "evaluation" and f"{cell.backbone} on " not in done.out] == []
    assert "published" not in done.out
    compared = against(made, table.published, table.rows).comparison
    assert compared.measured.isna().all()
