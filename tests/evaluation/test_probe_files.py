"""What a probe keeps: the best by the metric's direction, `probe.csv`, TensorBoard's curves and the best weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest
import torch
from growing import FEW, LIMIT, Net
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import densebench
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator
from densebench.options import axis, setting
from densebench.results.score import Score


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


NOTHING = 99.0  # a bias of which `Bias` makes a value that is no number


@dataclass(frozen=True)
class Bias(Evaluator):
    """The first bias of the network's last layer, as an error: lower is better unless told."""

    version: ClassVar[int] = 1
    presets: ClassVar = {"plain": {}}
    direction: ClassVar[str] = "lower"
    shares: tuple[int, ...] = axis((1,), "shares")
    unused: int = setting(0, "a setting")

    def headline(self):
        return {"metric": "rmse", "variant": "plain"}

    def points(self, dataset):
        return [(("fraction", share),) for share in self.shares]

    def run(self, backbone, dataset, run):
        [value] = [float(part.last.bias[0]) for part in backbone.modules() if isinstance(part, Net)]
        value = float("nan") if value == NOTHING else value
        for share in self.shares:
            axes, ci = {"fraction": share}, (value / share - 1, value / share + 1)
            yield Score("rmse", "plain", value / share, "m", axes, ci, direction=self.direction, digits=2)


class Higher(Bias):
    direction: ClassVar[str] = "higher"


def biased(value):
    model = Net()
    model.last.bias.data[0] = value
    return model


def asked_about(values, protocol=None, start=0, **given):
    asked = densebench.Probe("scenes", protocol or Bias(device="cpu"), limit=4, **given)
    for step, value in enumerate(values, start):
        asked(biased(value), step)
    return asked


@pytest.mark.parametrize(("protocol", "best"), [(Bias, (2, 0.25)), (Higher, (1, 4.0))])
def test_the_best_is_by_the_direction_of_the_metric(protocol, best):
    assert asked_about([2.0, 4.0, 0.25, 0.5, 4.0, 0.25], protocol(device="cpu")).best == best


def test_a_value_that_is_no_number_is_never_the_best():
    assert asked_about([NOTHING, 2.0, NOTHING, 3.0]).best == (1, 2.0)


def test_there_is_no_best_before_the_first_probe():
    asked = asked_about([])
    assert asked.best is None and asked.history.empty and list(asked.history)[:2] == ["step", "value"]


def test_every_call_is_a_row(tmp_path):
    asked = asked_about([2.0, 0.5], Bias(device="cpu", shares=(1, 2)), folder=str(tmp_path / "probes"))
    table = pd.read_csv(tmp_path / "probes" / "probe.csv")
    assert table["step"].tolist() == [0, 1] and table["value"].tolist() == [2.0, 0.5] and table["1/2"].tolist() == [1.0, 0.25]
    assert table["low"].tolist() == [1.0, -0.5] and table["high"].tolist() == [3.0, 1.5]
    assert (table["metric"] == "rmse").all() and (table["dataset"] == "scenes").all() and (table["seconds"] >= 0).all()
    assert asked.history["value"].tolist() == [2.0, 0.5]


def test_a_second_probe_continues_what_is_there(tmp_path):
    asked_about([2.0, 0.25, 3.0], folder=tmp_path)
    again = asked_about([], folder=tmp_path)
    assert again.best == (1, 0.25)
    again = asked_about([5.0, 0.125], start=3, folder=tmp_path)
    assert pd.read_csv(tmp_path / "probe.csv")["value"].tolist() == [2.0, 0.25, 3.0, 5.0, 0.125]
    assert again.best == (4, 0.125)


def test_steps_that_a_resumed_training_repeats_are_forgotten(tmp_path):
    asked_about([2.0, 1.0, 0.25], folder=tmp_path)
    again = asked_about([1.5], start=1, folder=tmp_path)
    assert pd.read_csv(tmp_path / "probe.csv")["value"].tolist() == [2.0, 1.5] == again.history["value"].tolist()
    assert again.best == (1, 1.5)


def test_probes_of_something_else_are_not_mixed_in(tmp_path):
    asked_about([2.0], folder=tmp_path)
    for given in ({"limit": 5}, {"limit": 4, "dataset": "other"}, {"limit": 4, "mean": (0.5, 0.5, 0.5)}):
        data = densebench.load_dataset("scenes")
        if given.pop("dataset", None):
            object.__setattr__(data, "name", "other")
        with pytest.raises(UserError, match="holds probes by Bias on scenes with other settings or data; give another folder"):
            densebench.Probe(data, Bias(device="cpu"), folder=tmp_path, **given)


@pytest.mark.parametrize("given", [{"shares": (2,)}, {"unused": 1}])
def test_probes_at_another_point_or_with_another_setting_are_not_mixed_in(tmp_path, given):
    asked_about([2.0], folder=tmp_path)
    with pytest.raises(UserError, match="with other settings or data; give another folder"):
        asked_about([], Bias(device="cpu", **given), folder=tmp_path)


def test_runtime_options_may_differ_between_two_probes_of_a_folder(tmp_path):
    asked_about([2.0], folder=tmp_path)
    assert asked_about([], Bias(device="cpu", batch_size=3), folder=tmp_path).best == (0, 2.0)


def test_the_best_weights_are_saved(tmp_path):
    path = tmp_path / "deep" / "best.safetensors"
    asked = densebench.Probe("scenes", Bias(device="cpu"), limit=4, save_best=str(path))
    for step, value in enumerate([2.0, 0.25, 0.5]):
        asked(torch.nn.DataParallel(biased(value)), step)
    fresh = Net(seed=5)
    fresh.load_state_dict(load_file(path))
    assert all(torch.equal(one, other) for one, other in zip(fresh.parameters(), biased(0.25).parameters(), strict=True))
    with pytest.raises(UserError, match="pixels:16 is no module whose weights could be saved"):
        asked("pixels:16", 3)


def test_tied_weights_can_be_saved(tmp_path):
    model = biased(1.0)
    model.again = model.last
    densebench.Probe("scenes", Bias(device="cpu"), limit=4, save_best=tmp_path / "best.safetensors")(model, 0)
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))


def test_tensorboard_shows_the_values(tmp_path):
    asked_about([2.0, 0.5], folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "probe"))
    events.Reload()
    curve = events.Scalars("probe/Bias rmse on scenes")
    assert [(event.step, event.value) for event in curve] == [(0, 2.0), (1, 0.5)]


def test_without_tensorboard_one_line_says_so_and_all_else_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    asked_about([2.0, 0.5], folder=tmp_path)
    assert capsys.readouterr().err.count("densebench[tensorboard]") == 1
    assert len(pd.read_csv(tmp_path / "probe.csv")) == 2 and not (tmp_path / "tensorboard").exists()


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    densebench.Probe("scenes", "incontext", limit=LIMIT, **FEW)(Net(), 0)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


def test_a_probe_prints_nothing_between_the_lines_of_a_loop(tmp_path, capsys):
    probe, model = densebench.Probe("scenes", "incontext", limit=LIMIT, **FEW), Net()
    probe(model, 0)  # the first call says what was recognised
    capsys.readouterr()
    probe(model, 1)
    assert capsys.readouterr() == ("", "")
