"""What a dry run of pretraining says: sizes are those of what a run leaves, and a long trial is left out."""

from __future__ import annotations

import re

import pytest
from few_images import Few
from small_runs import METHODS, train

from densebench.training import forecast as forecasting
from densebench.training.cache import Cache
from densebench.training.forecast import cached_bytes


@pytest.fixture
def told(monkeypatch):
    """What `forecast` returns, call by call."""
    made = []
    original = forecasting.forecast
    monkeypatch.setattr(forecasting, "forecast", lambda training: made.append(original(training)) or made[-1])
    return made


def test_the_cache_takes_what_is_forecast():
    images = Few(12)
    assert cached_bytes(images, 48) == Cache(images, 48).bytes.nbytes
    assert cached_bytes(images, 16) == pytest.approx(Cache(images, 16).bytes.nbytes, rel=0.05)
    assert cached_bytes(Few(2, broken=(1,)), 48) == Cache(Few(2, broken=(1,)), 48).bytes.nbytes


@pytest.mark.parametrize("method", METHODS[:1])
def test_files_are_as_large_as_forecast(method, tmp_path, told):
    train(method, tmp_path / "dry", dry_run=True)
    assert not (tmp_path / "dry").exists()
    once = train(method, tmp_path / "one", steps=2)
    [sizes] = told
    assert (once / "backbone.safetensors").stat().st_size == pytest.approx(sizes.backbone, rel=0.1)
    [*_, state] = sorted((once / "states").glob("*.safetensors"))
    assert state.stat().st_size == pytest.approx(sizes.state, rel=0.1)
    assert sizes.seconds > 0


def test_a_trial_that_would_take_long_is_left_out(tmp_path, told, capfd, monkeypatch):
    monkeypatch.setattr(forecasting, "BUDGET", 0.0)
    train(METHODS[0], tmp_path / "dry", dry_run=True)
    assert told[0].seconds is None and "not estimated" in capfd.readouterr().err


def test_the_notice_names_room_and_time(tmp_path, capfd):
    train(METHODS[0], tmp_path / "dry", dry_run=True, cache="ram", keep=3, save_steps=2)
    err = capfd.readouterr().err
    assert re.search(r"on disk: .* of backbone, and 3 states of .*; --cache ram: about .* of memory", err)
    assert re.search(r"about \d+:\d\d by a trial of two steps", err)
