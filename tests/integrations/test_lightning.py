"""The callback for Lightning, with the real package."""

from __future__ import annotations

import sys

import pytest
import torch
from growing import FEW, LIMIT, Net
from torch.utils.data import DataLoader

import densebench
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

make_importable()
lightning = pytest.importorskip("pytorch_lightning")

# The package warns about few workers, short runs and its own use of torch: none of it is about the callback.
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = Net()

    def training_step(self, batch, _):
        return self.backbone(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Logged(lightning.loggers.logger.DummyLogger):
    """A logger that remembers."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


def fitted(callback, batches=5, **given):
    """The module and the logger after a training of so many batches."""
    torch.manual_seed(0)
    data = DataLoader([torch.randn(3, 32, 32) for _ in range(2 * batches)], batch_size=2)
    logger, module = Logged(), Module()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "log_every_n_steps": 50}
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, logger=logger, callbacks=callback, **quiet, **given)
    trainer.fit(module, data)
    return module, logger, trainer


@pytest.fixture
def callback_of(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    from densebench.integrations.lightning import ProbeCallback

    def make(part="backbone", every=2, **given):
        return ProbeCallback(densebench.Probe("scenes", "incontext", every=every, limit=LIMIT, **FEW), part, **given)

    return make


def test_a_training_is_probed_at_its_start_and_after_the_steps_that_are_due(callback_of):
    callback = callback_of()
    module, logger, trainer = fitted(callback)
    history = callback.probe.history
    assert history["step"].tolist() == [0, 2, 4]
    assert [(step, row["probe"]) for step, row in logger.rows if "probe" in row] == list(
        zip(history["step"], history["value"], strict=True)
    )
    assert float(trainer.callback_metrics["probe"]) == pytest.approx(history["value"].iloc[-1])
    assert callback.probe(module.backbone, 6) is not None


def test_probes_change_no_weight(callback_of):
    one, other = fitted([])[0], fitted(callback_of(every=1))[0]
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_batches_that_are_accumulated_are_no_steps(callback_of):
    callback = callback_of(every=1)
    fitted(callback, batches=6, accumulate_grad_batches=3)
    assert callback.probe.history["step"].tolist() == [0, 1, 2]


def test_the_part_may_be_a_function_and_the_name_another(callback_of):
    callback = callback_of(lambda module: module.backbone, every=5, name="teacher")
    logger = fitted(callback)[1]
    assert [step for step, row in logger.rows if "teacher" in row] == [0, 5]


def test_a_part_that_there_is_not_stops_before_the_first_step(callback_of):
    with pytest.raises(AttributeError, match="encoder"):
        fitted(callback_of("encoder"))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "densebench.integrations.lightning", raising=False)
    with pytest.raises(UserError, match="needs lightning or pytorch_lightning, and neither is installed; pip install lightning"):
        __import__("densebench.integrations.lightning")
