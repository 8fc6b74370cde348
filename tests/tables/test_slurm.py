"""`--slurm`: what is written for sbatch, which jobs there are, and what a job does; sbatch itself is a stand-in."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from toy_cells import toy, words, written

from densebench.errors import UserError
from densebench.tables.cells import Cell
from densebench.tables.slurm import Share, read_parameters, shares, stages, submit
from densebench.tables.states import states


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Programs that stand for sbatch, which keeps each file that it gets, and srun; return the folder of these files."""
    programs, kept = tmp_path / "bin", tmp_path / "submitted"
    programs.mkdir()
    kept.mkdir()
    sbatch = f'#!/bin/sh\nn=$(ls {kept} | wc -l)\ncp "$1" {kept}/$n.sh\necho "Submitted batch job $((100 + n))"\n'
    for name, text in (("sbatch", sbatch), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return kept


def scored(name, backbone, dataset, needs=(), processes=1):
    return Cell(name, "evaluation", name, (), {}, needs, backbone=backbone, dataset=dataset, processes=processes)


def flags(path):
    """What a file asks of SLURM."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", path.read_text(), re.MULTILINE))


def test_the_files_ask_for_arrays_gpus_time_and_a_signal_before_the_end(folder, sbatch):
    cells = [toy(folder, "p1"), toy(folder, "p2"), toy(folder, "e1", needs=("p1",)), toy(folder, "e2", needs=("p2",))]
    given = read_parameters("partition=gpu,gpus_per_node=8,time=1-02:30:00,array_parallelism=1,mem=64GB,nodelist=a1,a2")
    assert submit(cells, folder, given, "neco-8") == ["100", "101"]
    first, second = (flags(sbatch / name) for name in ("0.sh", "1.sh"))
    assert first["array"] == second["array"] == "0-1%1"
    assert (first["partition"], first["gpus-per-node"], first["time"], first["mem"]) == ("gpu", "8", "1590", "64GB")
    assert (first["nodelist"], first["signal"], first["job-name"]) == ("a1,a2", "USR2@120", "densebench-neco-8")
    assert "dependency" not in first
    assert second["dependency"] == "afterany:100"
    assert "submitit.core._submit" in (sbatch / "0.sh").read_text()


def test_what_is_done_is_not_submitted(folder, sbatch):
    cells = [toy(folder, "a"), toy(folder, "b", needs=("a",))]
    Share(cells, ["a"], folder)()
    assert submit(cells, folder, {"time": 10}, "t") == ["100"]
    assert "array" not in flags(sbatch / "0.sh")  # it is a single job, and waits for nothing
    assert "dependency" not in flags(sbatch / "0.sh")


def test_cells_that_share_features_are_one_jobs():
    cells = [scored(f"{backbone}{dataset}{n}", backbone, dataset) for n in (1, 2) for backbone in "AB" for dataset in "vw"]
    names = [[cell.id for cell in share] for share in shares(cells, 1)]
    assert names == [["Av1", "Av2"], ["Aw1", "Aw2"], ["Bv1", "Bv2"], ["Bw1", "Bw2"]]
    assert [len(share) for share in shares(cells, 8)] == [8]
    assert [len(share) for share in shares(cells, 3)] == [6, 2]
    wide = [scored("a", "A", "v", processes=4), scored("b", "B", "v", processes=4), scored("c", "C", "v")]
    assert [[cell.id for cell in share] for share in shares(wide, 4)] == [["a"], ["b"], ["c"]]


def test_pretrainings_that_start_from_others_come_after_them():
    cells = [
        scored("c", "C", "v", ("b",)),
        scored("b", "B", "v", ("a",)),
        scored("a", "A", "v"),
        scored("d", "D", "v", ("gone",)),
    ]
    assert [[cell.id for cell in stage] for stage in stages(cells)] == [["a", "d"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion=gpu,time=60", "unknown key in --slurm 'partion': did you mean 'partition'"),
        ("time=soon", "--slurm time=soon: time takes minutes, HH:MM:SS or D-HH:MM:SS"),
        ("time=10,gpus_per_node=0", "--slurm gpus_per_node=0: gpus_per_node takes a whole number from 1 on"),
        ("time=10,time=20", "--slurm gives time twice"),
        ("partition=gpu", "--slurm needs time=MINUTES"),
        ("partition=,time=10", "--slurm partition=: partition takes a text"),
    ],
)
def test_a_wrong_parameter_is_one_line(text, message):
    with pytest.raises(UserError) as caught:
        read_parameters(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_are_minutes():
    assert [read_parameters(f"time={text}")["time"] for text in ("90", "01:30:00", "0:00:01", "2-00:00:00")] == [90, 90, 1, 2880]


def test_without_slurm_there_is_one_line(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="--slurm: this machine has no sbatch and no srun; .*--gpus N or --processes N"):
        submit([toy(folder, "a")], folder, {"time": 10}, "t")


def test_a_refusal_of_sbatch_is_one_line(folder, sbatch):
    program = sbatch.parent / "bin" / "sbatch"
    program.write_text('#!/bin/sh\necho "sbatch: error: invalid partition specified: gpu" >&2\nexit 1\n')
    with pytest.raises(UserError, match="--slurm: sbatch refused the jobs: .*invalid partition specified: gpu") as caught:
        submit([toy(folder, "a")], folder, {"time": 10}, "t")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_job_that_reaches_its_time_limit_is_queued_again_and_its_cells_resume(folder):
    from submitit import LocalExecutor

    cells = [toy(folder, "a", "wait"), toy(folder, "b", needs=("a",))]
    executor = LocalExecutor(folder.jobs / "node")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(Share(cells, ["a", "b"], folder))
    began = Path(folder.results / "a.began")
    while not began.exists():
        time.sleep(0.05)
    began.unlink()
    node = next(int(path.name.split("_")[0]) for path in (folder.jobs / "node").glob("*_log.err"))
    children = Path(f"/proc/{node}/task/{node}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGUSR2)
    while not began.exists():  # by the job that was queued again
        time.sleep(0.05)
    assert words(states(cells, folder)) == {"a": "running", "b": "waiting"}
    assert folder.noted(cells[0])["died"] == 0
    (folder.results / "a.go").touch()
    while not job.done():
        time.sleep(0.05)
    assert set(words(states(cells, folder)).values()) == {"done"}
    assert written(folder) == {"a": 1, "b": 1}
