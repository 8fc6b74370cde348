"""`make gpu`: a table of what a GPU gives, whose parts do not depend on each other; rehearsed on a CPU and a simulated GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from gpu_libraries import libraries_on
from simulated_cuda import simulate

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"


@pytest.fixture
def script(monkeypatch):
    """The script as a module; what it imports beside itself is forgotten afterwards."""
    names = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"]  # that name is the test run's own module
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("gpu_table", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in names:
        sys.modules.pop(name, None)


def rows(folder, name="cpu"):
    return json.loads((folder / f"{name}.json").read_text())["rows"]


def test_a_part_that_fails_says_where_and_the_others_run(script, tmp_path, capsys):
    script.PARTS = {"none": (5, "no_such_module", "none"), "counting": (5, "clustering", "counting")}
    assert script.main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    found = rows(tmp_path)
    assert [row["part"] for row in found if "FAILED" in row["what"]] == ["none"]
    assert sum(row["part"] == "counting" and row["unit"] == "ms" for row in found) == 2
    assert "FAILED: ModuleNotFoundError" in capsys.readouterr().out


def test_a_part_for_which_no_time_is_left_is_left_out(script, tmp_path):
    script.PARTS = {"counting": (5, "clustering", "counting")}
    with simulate():
        assert script.main(["--device", "cuda", "--budget", "1", "--output", str(tmp_path)]) == 0
    [row] = rows(tmp_path, "simulated-cuda")
    assert "left out" in row["what"]


def test_rows_are_saved_while_the_parts_run(script, tmp_path, monkeypatch):
    seen = []
    script.PARTS = {"counting": (5, "clustering", "counting"), "after": (5, "after", "after")}
    monkeypatch.setitem(sys.modules, "after", type(sys)("after"))
    sys.modules["after"].after = lambda bench: seen.extend(rows(tmp_path))
    assert script.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    assert {row["part"] for row in seen} == {"counting"}


def test_without_a_gpu_it_says_how_to_rehearse(script, capsys):
    assert script.main([]) == 2
    assert "make gpu DEVICE=cpu" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_one_line_before_the_first_part(script, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert script.main(["--device", "cpu", "--output", str(tmp_path / "file" / "folder")]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "cannot be written" in said.err and len(said.err.splitlines()) == 1


def test_a_part_that_is_not_there_is_named(script, tmp_path, capsys):
    assert script.main(["--device", "cpu", "--only", "counting,nonsense", "--output", str(tmp_path)]) == 2
    assert "unknown part 'nonsense'" in capsys.readouterr().err


def test_ctrl_c_leaves_the_rows_so_far_and_says_where(script, tmp_path, monkeypatch, capsys):
    def stopped(bench):
        raise KeyboardInterrupt

    script.PARTS = {"counting": (5, "clustering", "counting"), "after": (5, "after", "stopped")}
    monkeypatch.setitem(sys.modules, "after", type(sys)("after"))
    sys.modules["after"].stopped = stopped
    assert script.main(["--device", "cpu", "--output", str(tmp_path)]) == 130
    assert {row["part"] for row in rows(tmp_path)} == {"counting"}
    assert f"stopped; 3 rows in {tmp_path}" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(script, tmp_path):
    """Every method and protocol of the catalogue is in the table."""
    from densebench import catalog

    assert script.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    found = rows(tmp_path)
    assert {row["part"] for row in found} == set(script.PARTS)
    text = " ".join(row["what"] for row in found)
    assert all(f"pretrain {method}:" in text and f"{method} bf16: speed" in text for method in catalog.entries("methods"))
    assert all(f"{name}/" in text for name in catalog.entries("protocols"))


@pytest.mark.slow
def test_the_code_for_gpus_runs_on_a_simulated_one(script, tmp_path):
    """All parts but the comparison with a CPU, which `test_cuda_protocols` makes in more detail."""
    parts = set(script.PARTS) - {"right"}
    with simulate(), libraries_on("cuda"):
        assert script.main(["--device", "cuda", "--small", "--only", ",".join(parts), "--output", str(tmp_path)]) == 0
    assert {row["part"] for row in rows(tmp_path, "simulated-cuda")} == parts
