"""Killed runs through MMSegmentation: each resumes and ends as a run that nothing interrupted."""

from __future__ import annotations

import pytest
from drawn_maps import QUIET, equal
from segmentor_runs import RATES, Killed, killing, same, train
from tiers import late

from densebench.bridges.mmsegmentation import training

pytestmark = QUIET


@pytest.mark.parametrize("killed", late([1, 3, 6, 8], 8))
def test_a_run_killed_while_it_trains_goes_on_where_its_state_is(killed, whole, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "POINTS", 3)
    seen = killing(monkeypatch, "train_step", killed, after=True)
    with pytest.raises(Killed):
        train(pixels, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(training, "POINTS", 3)
    states = [int(path.stem.removeprefix("iter_")) for path in tmp_path.glob("iter_*.pth")]
    assert len(states) == min(2, (killed - 1) // 2) and all(killed - 5 <= state < killed for state in states)
    seen = killing(monkeypatch, "train_step", -1)
    same(train(pixels, tmp_path), whole)
    assert len(seen) == 8 - max(states, default=0)


@pytest.mark.parametrize("image", late([1, 3, 4, 6], 3))
def test_a_validation_that_a_kill_took_is_made_up_for(image, whole, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "POINTS", 1000)
    killing(monkeypatch, "val_step", image, after=image % 3 == 0)
    with pytest.raises(Killed):
        train(pixels, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(training, "POINTS", 1000)
    trained, scored = killing(monkeypatch, "train_step", -1), killing(monkeypatch, "val_step", -1)
    found = train(pixels, tmp_path)
    assert len(trained) == (4 if image < 4 else 0) and len(scored) == (6 if image < 4 else 3)
    assert [v.iteration for v in found.validations] == [4, 8]
    for a, b in zip(found.validations, whole.validations, strict=True):
        assert equal(a.pairs, b.pairs) and equal(a.maps, b.maps) and a.mmseg == b.mmseg


@pytest.mark.parametrize("written", [False, True])
def test_a_run_killed_while_it_writes_a_state_can_go_on(written, whole, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "POINTS", 3)
    original, seen = training.Runner.save_checkpoint, []

    def save(*arguments, **given):
        seen.append(1)
        if len(seen) == 2 and written:
            original(*arguments, **given)
        if len(seen) == 2:
            raise Killed
        original(*arguments, **given)

    with monkeypatch.context() as patch:
        patch.setattr(training.Runner, "save_checkpoint", save)
        with pytest.raises(Killed):
            train(pixels, tmp_path)
    assert len(seen) == 2
    same(train(pixels, tmp_path), whole)


def test_a_finished_run_is_read_and_not_repeated(pixels, tmp_path, monkeypatch):
    first = train(pixels, tmp_path)
    trained, scored = killing(monkeypatch, "train_step", -1), killing(monkeypatch, "val_step", -1)
    same(train(pixels, tmp_path), first)
    assert not trained and not scored


RESUMED = {
    "batchnorm": {"head": "batchnorm", "optimiser": "sgd", "photometric": True},
    "cosine": {"schedule": "cosine", "warmup": 0.4, "rates": (1e37, 1e-2)},
    "segmenter": {"head": "segmenter", "trained": True, "optimiser": "adam", "drop_path": 0.3, "rates": (1e-3,)},
    "frozen with stochastic depth": {"drop_path": 0.3},
}


@pytest.mark.parametrize("kind", late(RESUMED, "cosine"))
def test_dropout_statistics_momenta_and_schedules_survive_a_kill(kind, pixels, vit, tmp_path, monkeypatch):
    given = dict(RESUMED[kind])
    backbone = vit if given.get("drop_path") else pixels
    rates = given.pop("rates", RATES[:2])
    expected = train(backbone, tmp_path / "whole", rates, iterations=4, **given)
    killing(monkeypatch, "train_step", 3)
    with pytest.raises(Killed):
        train(backbone, tmp_path / "killed", rates, iterations=4, **given)
    monkeypatch.undo()
    seen = killing(monkeypatch, "train_step", -1)
    same(train(backbone, tmp_path / "killed", rates, iterations=4, **given), expected)
    assert len(seen) == 2
