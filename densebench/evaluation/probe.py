"""Probes: a small evaluation of a network while it is trained, in any training loop.

    probe = densebench.Probe("voc", "incontext", every=10, limit=200, folder="probes")
    for step in range(steps):
        ...
        score = probe(model, step)  # a number where a probe is due, else None

A probe is cheap: labels and views of images stay in memory between calls, and features are not written to disk. It leaves the
network, random generators and torch's switches as they were, so that a training with probes gives the weights of one without.
"""

from __future__ import annotations

import importlib
import math
import operator
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from densebench import catalog, options
from densebench.backbones.callables import check_features
from densebench.backbones.private_copy import unwrapped
from densebench.backbones.recognising import triple
from densebench.console import silenced
from densebench.datasets import load_dataset
from densebench.datasets.catalog import fits, fitting
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError, unknown
from densebench.evaluation.current_weights import CurrentWeights
from densebench.evaluation.headline import Headline, headline_of, headline_points
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.undisturbed import undisturbed
from densebench.features.memory import Memory
from densebench.files.atomic import digest
from densebench.files.logs import Board, CsvLog
from densebench.files.tensors import save_tensors
from densebench.numerics.arithmetic import float32
from densebench.processes import alone, from_main, rank, world_size
from densebench.results.score import SIGNS, heading
from densebench.user_code import class_code

NAME = "probe.csv"
MEMORY = 2 * 2**30  # bytes; 400 views of 512 px take 1.2 GiB


class Probe:
    """Scores the features of a network by one protocol on one data set, at every call that is due."""

    def __init__(
        self,
        dataset: str | Path | Dataset,
        protocol: str | Path | Evaluator,
        *,
        preset: str | None = None,
        every: int = 1,
        limit: int | None = None,
        data_root: str | Path | None = None,
        device: str = "auto",
        folder: str | Path | None = None,
        save_best: str | Path | None = None,
        features: Any = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        ranks: Literal["main", "all"] = "main",
        memory: int = MEMORY,
        **given: Any,
    ) -> None:
        """Open the data and check the options; no image is read yet.

        dataset: what `load_dataset` takes. protocol: a name, a file `./mine.py` or a protocol with its options.
        every: a probe is due at steps 0, every, 2 * every and so on. limit: most images of each split, evenly spaced.
        device: where features are computed: auto (a GPU if there is one), cpu or cuda.
        folder: where `probe.csv` and `tensorboard/probe/` go; a second probe continues them. Without it nothing is written.
        save_best: a file.safetensors for the weights (`state_dict`) of the best network so far.
        features, mean, std: how the network's output is read and its input normalised, as `load_backbone` takes them.
        ranks: of several processes (torch.distributed), "main" probes in the first one, and all others get None at once; with
        "all" every process must call, waits for the first one, and gets the same value.
        memory: bytes of labels, images and views that stay in memory; the others are decoded again at each call.
        given: the protocol's own options, as values or as the texts that the command line takes.
        Raises UserError for whatever the caller can mend.
        """
        options.check_types(options.TEXT, preset=preset, device=device)
        options.check_types(options.PATH, data_root=data_root, folder=folder, save_best=save_best)
        options.check_run(None, limit)
        limit = None if limit is None else int(limit)
        for name, value, least in (("every", every, 1), ("memory", memory, 0)):
            if type(value) is not int or value < least:
                raise UserError(f"{name}={value!r}: give a whole number, at least {least}")
        options.check_types(options.TEXT, ranks=ranks)
        if ranks not in ("main", "all"):
            raise unknown("value of ranks", str(ranks), ("main", "all"), 'ranks is "main" or "all"')
        self.every, self.limit, self.ranks = every, limit, ranks
        evaluator, self.protocol = _protocol(protocol, preset, {**given, **({} if device == "auto" else {"device": device})})
        opened = load_dataset(dataset, data_root)
        _check(evaluator, self.protocol, opened)
        self.evaluator = evaluator.resolve(opened)
        self.dataset = opened
        # raises for a missing split now, not in the middle of a training
        images = [len(opened.part(split, limit)) for split in dict.fromkeys(self.evaluator.splits(opened))]
        self._memory = Memory(opened, memory)
        if features is not None:
            check_features(features)
        means, stds = (None if value is None else triple(value, name) for name, value in (("mean", mean), ("std", std)))
        reading = {"features": features, "mean": means, "std": stds}
        self._network = CurrentWeights(**{name: value for name, value in reading.items() if value is not None})
        about = [opened.name, opened.code, images, limit, self.protocol, class_code(type(evaluator)), self._settings()]
        self._question = digest([*about, *([list(values) for values in (means, stds) if values is not None])], 16)
        self.save_best = None if save_best is None else Path(save_best)
        self._log = None if folder is None else CsvLog(Path(folder) / NAME, "give another folder")
        self._board: Board | None = None
        self._rows: list[dict[str, str]] = [] if self._log is None else self._log.rows
        self._begun = False
        if strange := next((row for row in self._rows if row.get("question") != self._question), None):
            before = f"{strange.get('protocol')} on {strange.get('dataset')}"
            raise UserError(f"{folder} holds probes by {before} with other settings or data; give another folder")

    def __call__(self, model: Any, step: int) -> float | None:
        """Score a network where a probe is due at this step, and return the headline value; else return None.

        model: whatever `load_backbone` takes: a module (also in DistributedDataParallel or compiled), a backbone, a spec, the
        folder of a checkpoint. A module is recognised at the first call; later calls load its weights of that moment. Steps from
        this one on that `folder` holds from an earlier training are dropped at the first call.
        Raises UserError for a network that cannot be read, or that gives other features than before.
        """
        try:
            step = operator.index(step)
        except TypeError as error:
            raise UserError(f"step={step!r}: give a whole number, such as the steps or epochs that are done") from error
        if not self.due(step):
            return None
        if self.ranks == "main" or world_size() == 1:
            return self.score(model, step).value if rank() == 0 else None
        row = from_main(lambda: _cells(self.score(model, step)))
        if rank() != 0:
            self._begin(step)
            self._rows.append({"step": str(step), **row})
        return float(row["value"])

    def due(self, step: int) -> bool:
        """Return whether a probe is due: at step 0, the untrained network, and every `every` steps after it."""
        return step % self.every == 0

    @property
    def best(self) -> tuple[int, float] | None:
        """The step and the value of the best probe, by the direction of the metric, the first of equals; None before any."""
        if not self._rows:
            return None
        row = max(self._rows, key=_goodness)
        return int(row["step"]), float(row["value"])

    @property
    def history(self) -> pd.DataFrame:
        """One row a probe: step, value, low and high (the 95 % interval, NaN without one) and seconds."""
        names = ("value", "low", "high", "seconds")
        rows = [{"step": int(row["step"]), **{name: float(row.get(name, "nan")) for name in names}} for row in self._rows]
        return pd.DataFrame(rows, columns=["step", *names])

    def score(self, model: Any, step: int) -> Headline:
        """Score a network now, in this process, whether or not a probe is due, and keep and write the result."""
        started = time.perf_counter()
        if self.save_best is not None and not isinstance(model, nn.Module):
            raise UserError(f"save_best={self.save_best}: {model} is no module whose weights could be saved; leave it out")
        with undisturbed(), alone():
            backbone = self._network.backbone(model)
            # the lines and bars of a score would come between those of the caller's loop
            with silenced(), self._memory.used(), float32(tf32=self.evaluator.precision == "tf32"):
                scores = list(self.evaluator.run(backbone, self._memory.dataset, Run(self.limit)))
        result = headline_of(scores, self.evaluator, self.dataset)
        self._keep(model, step, result, time.perf_counter() - started)
        return result

    def _settings(self) -> dict[str, Any]:
        evaluator = self.evaluator
        about = {"version": evaluator.version, "headline": evaluator.headline()}
        return {**about, "points": headline_points(evaluator, self.dataset), **evaluator.settings(self.dataset)}

    def _keep(self, model: Any, step: int, result: Headline, seconds: float) -> None:
        self._begin(step)
        row = {"step": str(step), **_cells(result), "seconds": f"{seconds:.3f}"}
        about = {"dataset": self.dataset.name, "protocol": self.protocol, "question": self._question}
        row |= about | {heading(point): repr(value) for point, value in result.others}
        if self._log is None:
            self._rows.append(row)
        else:
            self._log.add(row)
            self._plot(step, result, seconds)
        if self.save_best is not None and self.best is not None and self.best[0] == step:
            facts = {"step": str(step), result.metric: repr(result.value)}
            state = unwrapped(model).state_dict()
            state = {name: value.detach().to("cpu", copy=True) for name, value in state.items() if isinstance(value, Tensor)}
            save_tensors(self.save_best, state, facts, "give another save_best")

    def _begin(self, step: int) -> None:
        """At the first call, drop the probes from this step on: a training that resumes from an earlier state repeats them."""
        if self._begun:
            return
        self._begun = True
        if self._log is not None and rank() == 0:
            self._log.path.parent.mkdir(parents=True, exist_ok=True)
            self._log.drop_from(step)
            self._rows = self._log.rows
        else:
            self._rows = [row for row in self._rows if int(row["step"]) < step]

    def _plot(self, step: int, result: Headline, seconds: float) -> None:
        assert self._log is not None
        if self._board is None:
            self._board = Board(self._log.path.parent / "tensorboard" / "probe", step, NAME)
        name = f"probe/{self.protocol} {result.metric} on {self.dataset.name}"
        points = {f"{name}, {heading(point)}": value for point, value in result.others}
        self._board.add(step, {name: result.value, **points, "probe/seconds": seconds})


def _protocol(protocol: str | Path | Evaluator, preset: str | None, given: dict[str, Any]) -> tuple[Evaluator, str]:
    """Return a protocol with its options, and its name and preset in words.

    Raises UserError for an unknown protocol, preset or option, and for options beside a protocol that has its options already.
    """
    if isinstance(protocol, Evaluator):
        own = {name: value for name, value in given.items() if name != "device"}
        if own or preset is not None:
            what = ", ".join([*own, *([] if preset is None else ["preset"])])
            raise UserError(f"{type(protocol).__name__}(...) has its options already; give {what} to it")
        return options.checked(protocol, **given), type(protocol).__name__
    name = str(protocol)
    kind, preset = catalog.load_preset("protocols", name, preset)
    return options.build(kind, kind.presets[preset], given), f"{name}/{preset}"


def _check(evaluator: Evaluator, name: str, dataset: Dataset) -> None:
    """Raise UserError for a protocol that cannot score a network on the data in the middle of a training."""
    if evaluator.fine_tunes:
        raise UserError(
            f"{name} fine-tunes the network, which takes longer than a probe may: evaluate the finished network with it"
        )
    if evaluator.source_override() is not None:
        raise UserError(f"{name} has an option that names something else to score than the network; leave that option out")
    if not fits(dataset.kind, evaluator.takes):
        raise UserError(f"{dataset.name} has {dataset.kind}; {name} takes {evaluator.takes}: {fitting(evaluator.takes)}")


def _goodness(row: Mapping[str, Any]) -> float:
    """Return a number that is greater for better probes; minus infinity where the value is NaN."""
    value = SIGNS[row["direction"]] * float(row["value"])
    return -math.inf if math.isnan(value) else value


def _cells(result: Headline) -> dict[str, str]:
    """Return the cells of a row that hold the result."""
    texts = {name: getattr(result, name) for name in ("metric", "variant", "unit", "direction")}
    low_high = {} if result.ci95 is None else dict(zip(("low", "high"), map(repr, result.ci95), strict=True))
    return {"value": repr(result.value), **low_high, **texts}


def parse(spec: str) -> tuple[str, int | None]:
    """Return the data set and the limit (None: no limit) of `scenes` or `voc:200`. Raises UserError for a limit below 2."""
    name, _, limit = spec.rpartition(":") if re.fullmatch("[0-9]{1,9}", spec.rpartition(":")[2]) else (spec, "", "")
    if limit and int(limit) < 2:
        raise UserError(f"--probe {spec}: the limit is the number of images of each split, at least 2")
    return name, int(limit) if limit else None


def probe_protocol() -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the protocol that scores a backbone while it is pretrained, and the points of sweeps."""
    name, chosen = importlib.import_module("densebench.evals").PROBE
    return name, dict(chosen)
