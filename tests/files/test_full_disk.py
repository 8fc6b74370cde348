"""A full disk: one line that names the path and the remedy, and what was saved before stays as it was."""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from densebench.backbones.checkpoint import save_checkpoint
from densebench.errors import UserError
from densebench.files.logs import read_log
from densebench.files.states import save_state, saved_states
from densebench.files.store import Store
from densebench.training.logs import Log
from densebench.training.run import train

TINY = {
    "data": ["scenes"], "limit": 8, "steps": 4, "arch": "test_vit", "image_size": 32, "batch_size": 4, "hidden_dim": 32,
    "bottleneck_dim": 16, "out_dim": 64, "local_crops": 1, "local_size": 16, "log_every": 1, "save_steps": 1, "device": "cpu",
    "cache": "none",
}  # fmt: skip


@contextmanager
def full(size):
    """No file can grow beyond `size` bytes."""
    handler, before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["shard", "state", "checkpoint", "log"])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, what):
    model = torch.nn.Linear(100, 100)
    optimiser = torch.optim.AdamW(model.parameters())
    store, log = Store(tmp_path / "features" / "a", {}), Log(tmp_path / "log", 0)
    log.add(1, {"loss": 1.0})
    write = {
        "shard": lambda: store.add({"x": torch.zeros(10_000)}),
        "state": lambda: save_state(tmp_path, 1, {"m": model}, optimiser, {}),
        "checkpoint": lambda: save_checkpoint(tmp_path, model, "linear"),
        "log": lambda: [log.add(step, {"loss": 1.0}) for step in range(2, 1000)],
    }[what]
    if what != "log":
        write()
    before = files(tmp_path)
    with full(4000), pytest.raises(UserError, match=f"cannot write {tmp_path}.*File too large; free some space,? or ") as told:
        write()
    assert "\n" not in str(told.value)
    if what != "log":
        assert files(tmp_path) == before
    assert read_log(tmp_path / "log" / "log.csv")[0]["step"] == "1"


def test_a_run_that_met_a_full_disk_resumes_to_the_same_weights(tmp_path):
    whole = train("dino", output=tmp_path / "whole", **TINY)
    size = max(path.stat().st_size for path in saved_states(whole))
    train("dino", output=tmp_path / "cut", dry_run=True, **TINY)
    with full(size // 2), pytest.raises(UserError, match=r"states/step-00000001\.safetensors: File too large; free some space"):
        train("dino", output=tmp_path / "cut", **TINY)
    cut = train("dino", output=tmp_path / "cut", resume=True)
    one, two = (load_file(saved_states(folder)[-1]) for folder in (whole, cut))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_tensorboard_ends_with_one_line_where_its_disk_is_full_and_training_goes_on(tmp_path, capsys):
    log = Log(tmp_path, 0)
    log.add(1, {"loss": 1.0})
    with full(150):
        for step in range(2, 6):
            log.add(step, {"loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "File too large" in said and "TensorBoard's curves end here" in said
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == ["1", "2", "3", "4", "5"]


def test_tensorboard_that_cannot_begin_is_one_line(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("not a folder")
    log = Log(tmp_path, 0)
    log.add(1, {"loss": 1.0})
    assert capsys.readouterr().err.count("\n") == 1


def test_tensorboard_shows_every_figure_and_forgets_what_a_resumed_run_repeats(tmp_path):
    first = Log(tmp_path, 0)
    for step in range(1, 5):
        first.add(step, {"loss": float(step), "lr": 0.5})
    second = Log(tmp_path, 2)
    second.add(3, {"loss": 30.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [event.step for event in events.Scalars("lr")] == [1, 2]
