"""The one process of a run that talks and writes: log, states, backbones, pictures and probes."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densebench.backbones.checkpoint import save_checkpoint
from densebench.console import notice
from densebench.files.atomic import sweep, write_text
from densebench.pictures.canvas import save
from densebench.results.score import SIGNS
from densebench.training.logs import Log, Ticker
from densebench.training.loop import Report, Training
from densebench.training.objective import Views
from densebench.training.probe import probe
from densebench.training.states import retain, save_state
from densebench.training.stored_names import as_flags, with_code


class Chief:
    """The one process that talks and writes: log, states, backbones, pictures and probes."""

    def __init__(self, training: Training, folder: Path, about: dict[str, Any]) -> None:
        self.training, self.folder, self.about = training, folder, about
        sweep(folder)
        self.log = Log(folder, training.step)
        self.ticker = Ticker(training.step, training.steps, training.options.batch_size)
        self.views: Views | None = None

    @property
    def resume_command(self) -> str:
        """What goes on with this run."""
        return shlex.join([
            "densebench", "pretrain", self.about["method"], "--output", str(self.folder), "--resume",
            *as_flags(with_code(self.about)),
        ])  # fmt: skip

    def report(self, report: Report) -> None:
        """Log the figures of a step and show the line."""
        if report.figures:
            self.views = report.views
            rate = self.ticker.rate(report.step)
            self.log.add(report.step, {**report.figures, "images_per_second": rate})
            terms = {name: value for name, value in report.figures.items() if name in ("loss", "bootstrapping_ratio")}
            self.ticker.show(report.step, report.epoch, terms)

    def save(self) -> None:
        """Write the state and the backbone, then what depends on them: pictures, probes, backbones that stay."""
        training, options = self.training, self.training.options
        facts = {"scaler": training.scaler.state_dict(), "broken": sorted(training.broken), "skipped": training.monitor.skipped}
        save_state(self.folder, training.step, training.modules, training.optimiser, facts)
        retain(self.folder, options.keep)
        self.write_backbone(self.folder)
        if options.visualise and self.views is not None:
            self._draw(self.views.few(options.visualise))
        epoch, at_end = divmod(training.step, training.order.steps)
        if at_end:
            return
        if options.keep_every and epoch % options.keep_every == 0:
            self.write_backbone(self.folder / "epochs" / f"{epoch:04}")
        if options.probe and (epoch % options.probe_every == 0 or training.step == training.steps):
            self._probe(epoch)

    def write_backbone(self, folder: Path) -> None:
        """Write the teacher's encoder as a checkpoint."""
        training, about = self.training, self.about
        encoder = training.teacher.encoder
        save_checkpoint(
            folder,
            encoder.model,
            encoder.arch,
            method=about["method"],
            preset=about["preset"],
            variant=about["variant"],
            dataset=about["data"]["name"],
            image_size=training.options.image_size,
            pos_embed=encoder.convention,
            step=training.step,
            epoch=training.step / training.order.steps,
            finished=training.step == training.steps,
        )

    def _draw(self, views: Views) -> None:
        training = self.training
        with torch.no_grad():
            now = replace(training.now(0, False), step=training.step - 1, rank=0, world=1, part=0, parts=1)
            found = training.objective.pictures(training.teacher, views, now, training.images)
        for name, picture in found.items():
            save(picture, self.folder / "pictures" / f"{name}-{training.step:08}.png")

    def _probe(self, epoch: int) -> None:
        assert self.training.options.probe is not None
        score = probe(self.folder, self.training.options.probe, self.training.options.device, self.about["data"]["root"])
        self.log.add(self.training.step, {"epoch": float(epoch), f"probe_{score.metric}": score.value})
        value = f"{score.value:.{(score.digits or 0) + 1}f}"
        notice(f"epoch {epoch}: in-context {score.metric} of the teacher on {self.training.options.probe}: {value} {score.unit}")
        best = _read_best(self.folder, score.metric)
        if best is None or (score.value - best) * SIGNS[score.direction] > 0:
            self.write_backbone(self.folder / "best")
            write_text(self.folder / "best" / "probe.json", json.dumps({score.metric: score.value, "epoch": epoch}) + "\n")


def _read_best(folder: Path, metric: str) -> float | None:
    """Return the best value that was probed; None where there is none yet."""
    try:
        return float(json.loads((folder / "best" / "probe.json").read_text())[metric])
    except (OSError, ValueError, KeyError, TypeError):
        return None
