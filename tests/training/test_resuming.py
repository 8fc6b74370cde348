"""Stopping and resuming: a resumed run ends as one that was never stopped, and nothing is overwritten or misread."""

from __future__ import annotations

import functools
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from small_runs import METHODS, same, tensors, train
from tiers import late
from told_probes import told

from densebench.errors import Stopped, UserError
from densebench.files import states
from densebench.files.logs import read_log
from densebench.files.tensors import load_tensors
from densebench.training import loop
from densebench.training import run as training_run


def go_on(method, output, **given):
    return training_run.train(method, output=output, resume=True, **given)


def timeless(run):
    return [{n: v for n, v in row.items() if n != "images_per_second"} for row in read_log(run / "log.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing stops, by method."""
    return functools.cache(lambda method: train(method, tmp_path_factory.mktemp("whole") / "run", drop_path=0.2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that no test changes."""
    return train("dino", tmp_path_factory.mktemp("finished") / "run")


@pytest.mark.parametrize("method", late(METHODS, "cribo"))
def test_a_run_that_was_stopped_ends_like_one_that_was_not(method, whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    step = loop.train_step

    def killed(training, *rest):
        if training.step == 4:
            raise Killed
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", killed)
    with pytest.raises(Killed):
        train(method, tmp_path / "cut", drop_path=0.2, save_steps=3)
    monkeypatch.setattr(loop, "train_step", step)
    cut = go_on(method, tmp_path / "cut")
    same(tensors(whole(method)), tensors(cut))
    same(load_file(whole(method) / "backbone.safetensors"), load_file(cut / "backbone.safetensors"))
    assert timeless(whole(method)) == timeless(cut)


def test_the_scale_of_fp16_gradients_is_resumed(tmp_path):
    run = train("dino", tmp_path / "run", precision="fp16", steps=4, save_steps=2)
    newest = states.saved_states(run)[-1]
    uninterrupted = load_tensors(newest)[1]["state"]
    newest.unlink()
    go_on("dino", run)
    assert load_tensors(newest)[1]["state"] == uninterrupted


def test_resume_with_other_settings_is_refused_and_names_them(finished):
    with pytest.raises(UserError, match=r"lr was 0\.008, is 0\.1; out-dim was 64, is 32"):
        go_on("dino", finished, lr=0.1, out_dim=32)
    with pytest.raises(UserError, match="seed was 0, is 3"):
        go_on("dino", finished, seed=3)
    with pytest.raises(UserError, match="data was"):
        go_on("dino", finished, limit=16)


def test_resume_may_change_runtime_options(tmp_path):
    train("dino", tmp_path / "run", steps=1)
    go_on("dino", tmp_path / "run", log_every=2, workers=0, cache="ram")


def test_a_finished_run_is_not_begun_again(finished, capsys):
    before = tensors(finished)
    go_on("dino", finished)
    same(before, tensors(finished))
    assert "is complete: 6 steps" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    with pytest.raises(UserError, match="holds a run already; --resume"):
        train("dino", finished)


def test_a_full_disk_leaves_the_last_state(finished, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = states.saved_states(finished)
    monkeypatch.setattr("densebench.files.tensors.save_file", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        states.save_state(finished, 9, {}, torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]), {})
    assert states.saved_states(finished) == before
    assert not list((finished / "states").glob("*.part"))


def test_states_beyond_keep_are_removed(tmp_path):
    run = train("dino", tmp_path / "run", steps=3, save_steps=1, keep=2)
    assert [path.name for path in states.saved_states(run)] == ["step-00000002.safetensors", "step-00000003.safetensors"]


def test_a_broken_state_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    *older, path = states.saved_states(run)
    for each in older:
        each.unlink()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-00000006\.safetensors cannot be read.*remove it"):
        go_on("dino", run)


def test_ctrl_c_saves_and_says_how_to_go_on(whole, tmp_path, monkeypatch):
    step = loop.train_step

    def interrupted(training, *rest):
        if training.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(Stopped, match=r"stopped after step 3; `densebench pretrain cribo --output .* --resume`"):
        train("cribo", tmp_path / "cut", drop_path=0.2)
    monkeypatch.setattr(loop, "train_step", step)
    same(tensors(whole("cribo")), tensors(go_on("cribo", tmp_path / "cut")))


def test_training_goes_on_from_a_checkpoint(finished, tmp_path):
    second = train("croc", tmp_path / "second", init=f"ckpt:{finished}", arch=None, steps=1, lr=0, momentum=1.0)
    one, other = (load_file(run / "backbone.safetensors") for run in (finished, second))
    same(one, other)


def test_the_newest_run_is_found_and_not_its_parts(tmp_path, monkeypatch):
    from densebench.backbones.checkpoint import newest_checkpoint

    monkeypatch.setattr("densebench.training.run_folder.Probe", told([1.0]))
    run = train("dino", tmp_path / "runs" / "one", steps=None, epochs=1, probe="scenes", probe_every=1, keep_every=1)
    assert (run / "best" / "checkpoint.json").exists()
    assert (run / "epochs" / "0001" / "checkpoint.json").exists()
    assert newest_checkpoint(tmp_path / "runs") == run
