"""Probes in a training by Lightning: a callback for the package `lightning` or `pytorch_lightning`, whichever is in use.

trainer = Trainer(callbacks=[ProbeCallback(densebench.Probe("voc", "incontext", every=1000, limit=200), "backbone")])
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable
from typing import Any

from densebench.errors import UserError
from densebench.evaluation.probe import Probe
from densebench.torchvision_ops import make_importable

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback() -> Any:
    """Return the base class of callbacks, of a package that is imported already or else of one that is installed."""
    make_importable()
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise UserError("ProbeCallback needs lightning or pytorch_lightning, and neither is installed; pip install lightning")


class ProbeCallback(_callback()):  # type: ignore[misc]
    """Probes a network before the first step, and after every step (`trainer.global_step`) at which the probe is due.

    The value goes to the trainer's loggers, and to `trainer.callback_metrics` under `name`, so that `ModelCheckpoint` may monitor
    it (with several processes: of a probe with ranks="all", as then all of them have it).
    """

    def __init__(self, probe: Probe, attribute: str | Callable[[Any], Any] | None = None, name: str = "probe") -> None:
        """attribute: the part of the LightningModule to score: a name such as "backbone" or "model.encoder", or a function of the
        module; None: the module itself.
        """
        super().__init__()
        self.probe, self.name = probe, name
        self._part = attribute if callable(attribute) else operator.attrgetter(attribute) if attribute else lambda module: module
        self._last = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Probe the network before its first step; a training that is resumed was probed there."""
        if trainer.global_step == 0:
            self._score(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Probe the network after a step; batches whose gradients are only accumulated are no steps."""
        value = self._score(trainer, pl_module)
        if value is not None:
            pl_module.log(self.name, value, logger=False)

    def _score(self, trainer: Any, pl_module: Any) -> float | None:
        step = trainer.global_step
        if step == self._last:
            return None
        self._last = step
        value = self.probe(self._part(pl_module), step)
        for logger in trainer.loggers if value is not None else ():
            logger.log_metrics({self.name: value}, step=step)
        return value
