"""The folder of a run, which the main process writes: log, states, backbones, pictures, probes, warnings and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densebench.backbones.checkpoint import read_checkpoint, save_checkpoint
from densebench.console import notice, warn
from densebench.errors import Stopped, UserError
from densebench.evaluation.probe import Probe, parse, probe_protocol
from densebench.files.atomic import sweep, write_text
from densebench.files.states import StateWriter
from densebench.pictures.canvas import save
from densebench.results.score import SIGNS
from densebench.training.kept_warnings import KeptWarnings
from densebench.training.logs import Log, Ticker
from densebench.training.loop import Report, Training
from densebench.training.networks import MEAN, STD
from densebench.training.objective import Views
from densebench.training.page import LivePage


class RunFolder:
    """Writes the files of a run; only the main process has one."""

    def __init__(self, training: Training, folder: Path, run: dict[str, Any], probe: Probe | None) -> None:
        """run: the facts of `run.json`."""
        self.training, self.folder, self.run, self.probe = training, folder, run, probe
        sweep(folder)
        self.log = Log(folder, training.step)
        self.ticker = Ticker(training.step, training.steps, training.options.batch_size)
        self.views: Views | None = None
        self.states = StateWriter(folder, training.options.keep)
        self.warnings = KeptWarnings(folder)
        self.page = LivePage(folder) if training.options.visualise else None

    def __enter__(self) -> RunFolder:
        self.warnings.__enter__()
        self._renew_page()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Close the progress bar, so that the last line about the run stays, and wait until the last state is written.

        After a KeyboardInterrupt, the second Ctrl-C, it does not wait. The last page says how the run ended.
        """
        self.ticker.close()
        try:
            self._wait_for_states(kind)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self.warnings.__exit__()
            if self.page is not None:
                self.page.close(error)

    def _wait_for_states(self, kind: type[BaseException] | None) -> None:
        if kind is None or issubclass(kind, Stopped):
            self.states.wait()
        elif not issubclass(kind, KeyboardInterrupt):
            try:
                self.states.wait()
            except UserError as error:
                warn(str(error))  # a warning, since another error ends the run

    def _renew_page(self) -> None:
        if self.page is not None:
            self.page.renew()

    def report(self, report: Report) -> None:
        """Write the figures of a logged step to the log, and print its progress line."""
        self.states.check()
        if report.figures:
            self.views = report.views
            rate = self.ticker.rate(report.step)
            self.log.add(report.step, {**report.figures, "images_per_second": rate})
            terms = {name: value for name, value in report.figures.items() if name in ("loss", "bootstrapping_ratio")}
            self.ticker.show(report.step, report.epoch, terms)
            self._renew_page()

    def save(self) -> None:
        """Write state and backbone; then, where they are due, pictures, the backbone of the epoch and the probe.

        The state is written by a thread while the run goes on. Only the last state is waited for, since the backbone that follows
        marks the run as finished.
        """
        training, options = self.training, self.training.options
        facts = {"scaler": training.scaler.state_dict(), "broken": sorted(training.broken), "skipped": training.monitor.skipped}
        self.states.save(training.step, training.modules, training.optimiser, facts)
        if training.step == training.steps:
            self.states.wait()
        self.write_backbone(self.folder)
        if options.visualise and self.views is not None:
            self._draw(self.views.few(options.visualise))
        epoch, steps_after_epoch = divmod(training.step, training.order.steps)
        self._renew_page()
        if steps_after_epoch:
            return
        if options.keep_every and epoch % options.keep_every == 0:
            self.write_backbone(self.folder / "epochs" / f"{epoch:04}")
        if self.probe is not None and (epoch % options.probe_every == 0 or training.step == training.steps):
            self._score(epoch, self.probe)

    def write_backbone(self, folder: Path) -> None:
        """Write the teacher's encoder as a checkpoint."""
        training, run = self.training, self.run
        encoder = training.teacher.encoder
        save_checkpoint(
            folder,
            encoder.model,
            encoder.arch,
            method=run["method"],
            preset=run["preset"],
            variant=run["variant"],
            dataset=run["data"]["name"],
            image_size=training.options.image_size,
            pos_embed=encoder.convention,
            mean=MEAN,
            std=STD,
            step=training.step,
            epoch=training.step / training.order.steps,
            finished=training.step == training.steps,
        )

    def _draw(self, views: Views) -> None:
        training = self.training
        with torch.no_grad():
            context = replace(training.context(0, False), step=training.step - 1, rank=0, world=1, part=0, parts=1)
            pictures = training.objective.pictures(training.teacher, views, context, training.images)
        for name, picture in pictures.items():
            save(picture, self.folder / "pictures" / f"{name}-{training.step:08}.png")

    def _score(self, epoch: int, probe: Probe) -> None:
        """Score the backbone that was just written, and write it to `best/` if no probe before was better."""
        score = probe.score(f"ckpt:{self.folder}", self.training.step)
        self.log.add(self.training.step, {"epoch": float(epoch), f"probe_{score.metric}": score.value})
        what = f"{probe_protocol()[0]} {score.metric} of the teacher on {self.training.options.probe}"
        notice(f"epoch {epoch}: {what}: {score}")
        best = _read_best(self.folder, score.metric, self.training.teacher.encoder.model.pretrained_cfg)
        if best is None or (score.value - best) * SIGNS[score.direction] > 0:
            self.write_backbone(self.folder / "best")
            write_text(self.folder / "best" / "probe.json", json.dumps({score.metric: score.value, "epoch": epoch}) + "\n")


def probe_of(spec: str | None, device: str, root: Path | None) -> Probe | None:
    """Return what `--probe` asks for; None without it. Raises UserError for data that are not there."""
    if not spec:
        return None
    (dataset, limit), (protocol, chosen) = parse(spec), probe_protocol()
    return Probe(dataset, protocol, limit=limit, device=device, data_root=root, **chosen)


def _read_best(folder: Path, metric: str, config: Mapping[str, Any]) -> float | None:
    """Return the best value of the probes so far; None where there is none yet.

    Earlier versions normalised the images of probes with the colour statistics of `config`, timm's of the architecture; where
    those are others than the training's, such a value compares with none of today's.
    """
    try:
        if "mean" not in read_checkpoint(folder / "best") and (tuple(config["mean"]), tuple(config["std"])) != (MEAN, STD):
            return None
        return float(json.loads((folder / "best" / "probe.json").read_text())[metric])
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
