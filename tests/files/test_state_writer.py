"""States that are written in a thread: those of the moment of saving, whole or not at all, with errors that reach the run."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from safetensors.torch import load_file
from small_runs import same, train

from densebench.errors import Stopped, UserError
from densebench.files import states
from densebench.files.states import StateWriter, load_newest, saved_states
from densebench.training import loop


class Disk:
    """A disk that writes nothing until it is told to, and then perhaps is full."""

    def __init__(self, monkeypatch):
        self.asked, self.open, self.full, self.write = threading.Semaphore(0), threading.Event(), False, states.save_tensors
        monkeypatch.setattr(states, "save_tensors", self.save)

    def save(self, path, *rest):
        self.asked.release()
        assert self.open.wait(timeout=60)
        if self.full:
            raise UserError(f"cannot write {path}: No space left on device; free some space or choose another folder")
        self.write(path, *rest)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.open.set()


def parts(value):
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, value)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.ones(1, 3)).sum().backward()
    return model, optimiser


def test_a_state_is_that_of_the_moment_of_saving(tmp_path, disk):
    """While the disk is busy, weights, moments and buffers change in place."""
    model, optimiser = parts(1.0)
    memory = torch.nn.BatchNorm1d(4)
    optimiser.step()
    modules = {"model": model, "memory": memory}
    expected = {f"{name}/{key}": value.clone() for name in modules for key, value in modules[name].state_dict().items()}
    moment = optimiser.state[model.weight]["exp_avg"].clone()
    writer = StateWriter(tmp_path, 2)
    writer.save(1, modules, optimiser, {})
    assert not saved_states(tmp_path)
    optimiser.step()
    memory(torch.randn(5, 4))
    disk.open.set()
    writer.wait()
    saved = load_file(saved_states(tmp_path)[0])
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    assert torch.equal(saved["optimiser/0/exp_avg"], moment)


def test_while_a_state_is_written_the_one_before_is_the_newest(tmp_path, disk):
    """Whoever is killed now resumes from it; it is removed once the new one is complete."""
    disk.open.set()
    model, optimiser = parts(1.0)
    writer = StateWriter(tmp_path, 1)
    writer.save(1, {"model": model}, optimiser, {})
    writer.wait()
    disk.open.clear()
    writer.save(2, {"model": model}, optimiser, {})
    other, its_optimiser = parts(0.0)
    newest = load_newest(tmp_path, {"model": other}, its_optimiser)
    assert newest is not None and newest[1]["step"] == 1
    assert torch.equal(other.weight, model.weight)
    disk.open.set()
    writer.wait()
    assert [path.name for path in saved_states(tmp_path)] == ["step-00000002.safetensors"]


def test_one_state_is_written_at_a_time(tmp_path, disk):
    model, optimiser = parts(1.0)
    writer = StateWriter(tmp_path, 3)
    writer.save(1, {"model": model}, optimiser, {})
    second = threading.Thread(target=writer.save, args=(2, {"model": model}, optimiser, {}))
    second.start()
    assert disk.asked.acquire(timeout=60)
    assert not disk.asked.acquire(timeout=0.2)
    disk.open.set()
    second.join()
    writer.wait()
    assert len(saved_states(tmp_path)) == 2


@pytest.mark.parametrize("call", ["check", "wait", "save"])
def test_a_full_disk_reaches_the_next_call_once_and_keeps_the_older_state(call, tmp_path, disk):
    disk.open.set()
    model, optimiser = parts(1.0)
    writer = StateWriter(tmp_path, 1)
    writer.save(1, {"model": model}, optimiser, {})
    writer.wait()
    disk.full = True
    writer.save(2, {"model": model}, optimiser, {})
    while any(thread.name == "densebench-states" for thread in threading.enumerate()):
        pass
    given = (3, {"model": model}, optimiser, {}) if call == "save" else ()
    with pytest.raises(UserError, match="No space left on device"):
        getattr(writer, call)(*given)
    assert [path.name for path in saved_states(tmp_path)] == ["step-00000001.safetensors"]
    writer.check()


def test_a_run_trains_on_while_its_state_is_written(tmp_path, monkeypatch, disk):
    """The state of step 2 cannot be written before step 3 is done; its memory bank is that of step 2 all the same."""
    step = loop.train_step

    def watched(training, *rest):
        report = step(training, *rest)
        if training.step == 3:
            assert not saved_states(tmp_path / "run")
            disk.open.set()
        return report

    monkeypatch.setattr(loop, "train_step", watched)
    run = train("cribo", tmp_path / "run", steps=4, save_steps=2)
    monkeypatch.setattr(loop, "train_step", step)
    plain = train("cribo", tmp_path / "plain", steps=4, save_steps=2)
    for one, other in zip(saved_states(run), saved_states(plain), strict=True):
        same(load_file(one), load_file(other))


def test_ctrl_c_waits_for_the_state_and_tells_where_it_cannot_be_written(tmp_path, monkeypatch, disk):
    step = loop.train_step

    def interrupted(training, *rest):
        if training.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", interrupted)
    threading.Timer(0.5, disk.open.set).start()
    with pytest.raises(Stopped, match="stopped after step 3"):
        train("dino", tmp_path / "run")
    assert [path.name for path in saved_states(tmp_path / "run")] == ["step-00000003.safetensors"]
    disk.full = True
    with pytest.raises(UserError, match=r"step-00000003\.safetensors: No space left"):
        train("dino", tmp_path / "full")
