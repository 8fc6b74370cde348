"""What a page shows of a run, read from the files in its folder: facts, curves, probes, pictures and configuration."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

from markupsafe import Markup

from densebench.console import clock
from densebench.errors import UserError
from densebench.files.stored_json import ShapeError, load
from densebench.pages.charts import line_chart_svg
from densebench.results.tables import metric_name
from densebench.training.kept_warnings import read_warnings
from densebench.training.logged import Figure, Logged, read_logged
from densebench.training.logs import NAME as LOG
from densebench.training.run_file import RUN, read_run, resume_command

PICTURE = re.compile(r"(?P<name>.+)-(?P<step>\d{1,15})\.png")
MOST_STEPS = 300  # of which a page shows pictures; of more, evenly spaced ones
ABOUT = {
    "bootstrapping_ratio": "Share of objects whose match in the memory is cycle-consistent (CrIBo, appendix B.4 and figure 5): "
    "the mean of each epoch, with its lowest and highest value. It rises as the features become semantic.",
    "feature_std": "Spread of the teacher's features over images. Near 0 all images have the same features: a collapse.",
    "teacher_entropy": "Entropy of the teacher's distributions, in nats. At the logarithm of the number of prototypes they are "
    "uniform, which is a collapse.",
}
"""What the columns of a log mean that several methods have."""
FOLDED = ("weight_decay", "momentum", "teacher_temp", "images_per_second", "skipped", "broken_files")
"""Schedules, speed and failures: figures that are looked at only where something is odd."""


SENTENCES = {
    "running": "The training is running.",
    "finished": "The training is complete.",
    "stopped": "The training was stopped, and its state is saved.",
    "failed": "The training ended with an error.",
    "unfinished": "The training is not complete: it was stopped, was killed, or is still running.",
}


@dataclass(frozen=True)
class RunPage:
    """What is known of a run from its files."""

    folder: Path
    state: str
    about: str
    run: Mapping[str, Any]
    logged: Logged
    problems: list[str]

    @classmethod
    def read(cls, folder: Path, state: str, about: str) -> RunPage:
        """Return what the files of a folder say; what is missing or damaged is among the problems."""
        run: Mapping[str, Any] = {}
        logged, problems = Logged({}), []
        try:
            run = read_run(folder)
        except UserError:
            problems.append(f"{RUN} is missing or damaged: the request of the run is unknown.")
        try:
            logged = read_logged(folder / LOG)
        except OSError as error:
            problems.append(f"{LOG} cannot be read ({error.strerror}): there are no curves.")
        else:
            problems += [] if logged.figures else [f"{LOG} holds no values yet."]
        return cls(folder, state, about, run, logged, problems)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.run.get("settings", {})

    @property
    def per_epoch(self) -> float | None:
        """The steps of an epoch; by the number of images as long as nothing is logged."""
        images, batch = self.run.get("data", {}).get("images"), self.settings.get("batch_size")
        by_images = images // batch if _is_count(images) and _is_count(batch) else None
        return self.logged.per_epoch or by_images or None

    @property
    def steps(self) -> int | None:
        """The steps of the whole run."""
        steps, epochs = self.settings.get("steps"), self.settings.get("epochs")
        if _is_count(steps):
            return steps
        return round(epochs * self.per_epoch) if _is_count(epochs) and self.per_epoch else None

    def values(self) -> dict[str, Any]:
        """Return what the template shows, by name."""
        run = self.run
        title = f"{run['method']}/{run['preset']} on {run['data']['name']}" if run else self.folder.name
        return {
            "title": f"Pretraining: {title}", "folder": self.folder.name, "word": self.state, "changed": self._changed(),
            "sentence": self.about or SENTENCES.get(self.state, ""), "step": self.logged.step, "steps": self.steps,
            "facts": self._facts(), "problems": self.problems, "warnings": read_warnings(self.folder), "probes": self._probes(),
            "pictures": self._pictures(), **self._charts(), **self._configuration(),
        }  # fmt: skip

    def _changed(self) -> dict[str, Any]:
        """Return when the log, or before there is one the request, was last written: as people read it, and in seconds."""
        seconds = 0.0
        for path in (self.folder, self.folder / RUN, self.folder / LOG):
            with suppress(OSError):
                seconds = path.stat().st_mtime
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        return {"what": "last entry", "text": text, "seconds": round(seconds)}

    def _facts(self) -> dict[str, str]:
        """Return the newest values, by name."""
        last = {name: figure.last for name, figure in self.logged.figures.items()}
        rate, batch = last.get("images_per_second", 0.0), self.settings.get("batch_size")
        epochs = f" of {self.steps / self.per_epoch:.4g}" if self.steps and self.per_epoch else ""
        facts = {"step": f"{self.logged.step:,}" + (f" of {self.steps:,}" if self.steps else "")}
        facts |= {"epoch": f"{last['epoch']:.4g}{epochs}"} if "epoch" in last else {}
        facts |= {"loss": f"{last['loss']:.4g}"} if "loss" in last else {}
        facts |= {"images/s": f"{rate:.4g}"} if rate > 0 else {}
        if self.state == "running" and rate > 0 and self.steps and _is_count(batch):
            facts["time left"] = clock(min(max(self.steps - self.logged.step, 0) * batch / rate, 1e9))
        lost = {"steps skipped": last.get("skipped", 0), "images not decoded": last.get("broken_files", 0)}
        return facts | {name: f"{count:g}" for name, count in lost.items() if count}

    def _charts(self) -> dict[str, list[tuple[Markup, str]]]:
        """Return the charts: main ones, further figures, and those that are folded; each with what it means."""
        figures = dict(self.logged.figures)
        figures.pop("epoch", None)
        main: list[tuple[Markup, str]] = []
        more: list[tuple[Markup, str]] = []
        folded: list[tuple[Markup, str]] = []
        terms = {name: figures.pop(name) for name in list(figures) if name == "loss" or f"{name}_weight" in self.settings}
        main += [(self._chart("Losses", [*terms.values()]), "")] if terms else []
        for name in [name for name in figures if name.startswith("probe_")]:
            main.append((self._chart(f"Probe: {metric_name(name[6:])}", [figures.pop(name)], best=self._best(name[6:])), ""))
        if (ratio := figures.pop("bootstrapping_ratio", None)) is not None:
            main.append((self._ratio(ratio), ABOUT["bootstrapping_ratio"]))
        if rates := [figures.pop(name) for name in ("lr", "head_lr") if name in figures]:
            main.append((self._chart("Learning rate", rates), ""))
        for name, figure in figures.items():
            (folded if name in FOLDED else more).append((self._chart(_words(name).capitalize(), [figure]), ABOUT.get(name, "")))
        return {"charts": main, "more": more, "folded": folded}

    def _ratio(self, ratio: Figure) -> Markup:
        """Return the chart of the bootstrapping ratio: the mean of each epoch, and its lowest and highest value as a band."""
        if self.per_epoch is None:
            return self._chart("Bootstrapping ratio", [ratio])
        series = ratio.by_epoch(self.per_epoch, "mean of an epoch")
        about = f"The mean of each epoch; the newest is {series.y[-1]:.3g}." if series.y else ""
        return line_chart_svg([series], title="Bootstrapping ratio", along="epoch", y_limits=(0.0, None), description=about)

    def _chart(self, title: str, figures: Sequence[Figure], best: float | None = None) -> Markup:
        along = "epoch" if self.per_epoch else "step"
        series = []
        for figure in figures:
            line = figure.line(self.per_epoch or 1.0, _words(figure.name))
            marked = next((index for index, at in enumerate(line.x) if best is not None and abs(at - best) < 1e-6), None)
            series.append(replace(line, best=marked))
        last = "; ".join(f"{_words(figure.name)} {figure.last:.4g}" for figure in figures)
        return line_chart_svg(series, title=title, along=along, description=f"At step {self.logged.step}: {last}.")

    def _best(self, metric: str) -> float | None:
        """Return the epoch of the best probe, by the file beside the backbone that it kept."""
        try:
            facts = load(self.folder / "best" / "probe.json")
        except ShapeError:
            return None
        epoch = facts.get("epoch") if isinstance(facts, dict) and metric in facts else None
        return float(epoch) if isinstance(epoch, int | float) else None

    def _probes(self) -> list[dict[str, Any]]:
        """Return each metric of the probes with its values by epoch, newest first."""
        found = []
        for name, figure in self.logged.figures.items():
            if name.startswith("probe_"):
                best, epochs = self._best(name[6:]), figure.steps / (self.per_epoch or 1.0)
                rows = [
                    (f"{at:.4g}", f"{value:.2f}", best is not None and abs(at - best) < 1e-6)
                    for at, value in zip(epochs, figure.values, strict=True)
                ]
                data = self.run.get("runtime", {}).get("probe") or ""
                found.append({"metric": metric_name(name[6:]), "rows": rows[::-1][:MOST_STEPS], "data": data})
        return found

    def _pictures(self) -> dict[str, Any]:
        """Return the kinds of pictures, and for each step that has some, its name and the file of each kind ("": none)."""
        by_step: dict[int, dict[str, str]] = {}
        for path in sorted((self.folder / "pictures").glob("*.png")):
            if match := PICTURE.fullmatch(path.name):
                address = quote(f"pictures/{path.name}", errors="surrogateescape")
                by_step.setdefault(int(match["step"]), {})[match["name"]] = address
        order = sorted(by_step)
        if len(order) > MOST_STEPS:
            order = [order[index * (len(order) - 1) // (MOST_STEPS - 1)] for index in range(MOST_STEPS)]
        kinds = list(dict.fromkeys(name for step in order for name in by_step[step]))
        files = [[by_step[step].get(kind, "") for kind in kinds] for step in order]
        steps = [{"step": step, "name": self._moment(step), "files": each} for step, each in zip(order, files, strict=True)]
        newest = [max(index for index, each in enumerate(files) if each[column]) for column in range(len(kinds))]
        return {"kinds": kinds, "steps": steps, "newest": newest, "all": len(by_step)}

    def _moment(self, step: int) -> str:
        return f"step {step:,}" + (f", epoch {step / self.per_epoch:.4g}" if self.per_epoch else "")

    def _configuration(self) -> dict[str, Any]:
        """Return the request of the run, and the commands that start and resume it."""
        run = self.run
        if not run:
            return {"command": "", "resume": "", "configuration": {}}
        data = run["data"]
        asked = {name: run[name] for name in ("method", "preset", "variant", "seed")}
        asked |= {"init": run["init"] or "random weights", "data": f"{data['name']} ({data['images']:,} images)"}
        tables = {"Request": asked, "Settings": run["settings"], "Runtime": run["runtime"]}
        tables |= {name.title(): run[name] for name in ("code", "environment") if isinstance(run.get(name), dict)}
        shown = {name: {_words(key): _shown(value) for key, value in table.items()} for name, table in tables.items()}
        resume = resume_command(self.folder, run) if self.state in ("stopped", "failed", "unfinished") else ""
        command = run.get("command")
        return {"command": command if isinstance(command, str) else "", "resume": resume, "configuration": shown}


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    """Return a value of a request as text."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
