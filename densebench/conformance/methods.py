"""What every method must do: learn, leave the teacher to its schedule, and give the same weights after a kill as in one go."""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from densebench import catalog
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import Check, Failed, Step, carried_out, own_cache
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError
from densebench.files.logs import read_log
from densebench.files.states import saved_states
from densebench.processes import World
from densebench.training import loop
from densebench.training.method import Pretrainer
from densebench.training.run import build, train

STEPS, IMAGES, BATCH = 4, 24, 8
SHORT = {"arch": "test_vit", "batch_size": BATCH, "device": "cpu", "workers": 0, "cache": "none", "log_every": 1, "steps": STEPS}
SAVED = {"save_steps": STEPS // 2, "keep": 2 * STEPS}
DATA = "scenes"


def check_method(name: str, preset: str | None = None, given: Mapping[str, Any] | None = None) -> Iterator[Check]:
    """Yield the checks of a method, a name of the catalogue or a path: a few steps on a few generated images, several times.

    preset: the first if not given. given: its hyper-parameters, by field name, as `train` takes them; they override what makes
    the runs short. Raises UserError where the method cannot be read or has no such preset.
    """
    kind, preset = catalog.load_preset("methods", name, preset)
    with ExitStack() as stack:
        stack.enter_context(own_cache())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="densebench-check-")))
        trial = _Trial(name, kind, preset, {**SHORT, **(given or {})}, folder)
        yield from carried_out([
            Step("presets", trial.presets, needed=True),
            Step("step", trial.step, needed=True),
            Step("teacher", trial.teacher),
            Step("trains", trial.trains, needed=True),
            Step("learns", trial.learns),
            Step("loads", trial.loads),
            Step("same seed", trial.same_seed),
            Step("other seed", trial.other_seed),
            Step("resume", trial.resume),
        ])  # fmt: skip


class _Trial:
    """A method with a preset, and a folder for its runs."""

    def __init__(self, name: str, kind: type[Pretrainer], preset: str, given: Mapping[str, Any], folder: Path) -> None:
        self.name, self.kind, self.preset, self.given, self.folder = name, kind, preset, dict(given), folder
        if "epochs" in self.given:
            self.given.pop("steps", None)

    def run(self, label: str, **changed: Any) -> Path:
        """Return the folder of a new run."""
        given = {**self.given, **SAVED, **changed}
        return train(self.name, data=DATA, limit=IMAGES, output=self.folder / label, preset=self.preset, **given)

    @functools.cached_property
    def first(self) -> Path:
        """The folder of the first whole run."""
        return self.run("first")

    def assembled(self) -> loop.Training:
        """Return a run at step 0, in memory."""
        chosen = build(self.kind, self.name, self.preset, "official", None, self.given)
        torch.manual_seed(0)
        images = open_images((DATA,), None, IMAGES)
        return loop.assemble(chosen, chosen.encoder(), images, 0, World(0, 1, torch.device("cpu")))

    def presets(self) -> str:
        for preset in self.kind.presets:
            for variant in ("official", "paper"):
                try:
                    build(self.kind, self.name, preset, variant, None, {})
                except (UserError, KeyError) as error:  # KeyError: an option that the method does not have
                    raise Failed(f"the preset {preset} ({variant}) cannot be built: {error}; correct its options") from error
        return ", ".join(self.kind.presets)

    def step(self) -> str:
        """Check that in one step a gradient reaches the student's encoder."""
        training, reached = self.assembled(), set()
        for name, parameter in training.student.named_parameters():
            if not parameter.requires_grad:
                continue  # such as prototypes of length 1
            parameter.register_hook(lambda gradient, name=name: reached.add(name) if gradient.abs().sum() > 0 else None)
        [report] = loop.run(training, 1)
        if not math.isfinite(report.figures["loss"]):
            raise Failed(f"the loss of the first step is {report.figures['loss']}; look for logarithms of 0 and divisions by 0")
        if not any(name.startswith("encoder.") for name in reached):
            raise Failed("no gradient reaches the student's encoder; the loss must depend on student(...), not detached")
        return f"loss {report.figures['loss']:.4g}, a gradient for {len(reached)} of the student's tensors"

    def teacher(self) -> str:
        """Check that the teacher gets no gradient, and moves towards the student by its momentum alone."""
        training = self.assembled()
        before = [parameter.detach().clone() for parameter in training.teacher.parameters()]
        momentum = training.scheduled(0)["momentum"]
        list(loop.run(training, 1))
        names = [name for name, _ in training.teacher.named_parameters()]
        pairs = zip(names, training.teacher.parameters(), before, training.student.parameters(), strict=True)
        for name, after, old, student in pairs:
            if after.requires_grad or after.grad is not None:
                raise Failed(f"{name} of the teacher gets a gradient; leave requires_grad as it is, and detach what it gives")
            if not torch.allclose(after, momentum * old + (1 - momentum) * student, rtol=1e-4, atol=1e-6):
                raise Failed(f"{name} of the teacher is not {momentum:g} of itself, else the student; only the loop changes it")
        return f"no gradient; it follows the student with momentum {momentum:.4g}"

    def trains(self) -> str:
        rows = read_log(self.first / "log.csv")
        losses = [float(row["loss"]) for row in rows]
        skipped = int(float(rows[-1].get("skipped", 0)))
        if skipped or not all(map(math.isfinite, losses)):
            raise Failed(
                f"losses are {', '.join(f'{loss:.4g}' for loss in losses)}, {skipped} steps were skipped; keep them finite"
            )
        return f"{len(losses)} steps, loss {losses[0]:.4g} to {losses[-1]:.4g}"

    def learns(self) -> str:
        early, late = (_of(load_file(path), "student/encoder.") for path in _first_and_last(self.first))
        same = [name for name, value in early.items() if torch.equal(value, late[name])]
        if len(same) == len(early):
            raise Failed("no weight of the student's encoder changes between saved states; see the loss and the learning rate")
        return f"{len(early) - len(same)} of {len(early)} tensors of the student's encoder change"

    def loads(self) -> str:
        backbone = load_backbone(f"ckpt:{self.first}")
        side = 2 * backbone.stride
        with torch.inference_mode():
            shape = tuple(backbone(torch.zeros(1, 3, side, side)).shape[1:])
        return f"as a backbone, {shape[0]} features every {backbone.stride} px"

    def same_seed(self) -> str:
        if differs := _difference(_final(self.first), _final(self.run("again"))):
            raise Failed(f"the same run twice differs in {differs}; take random numbers from the StepContext")
        return "equal bit for bit"

    def other_seed(self) -> str:
        if not _difference(_final(self.first), _final(self.run("other", seed=1))):
            raise Failed("another seed gives the same weights; see what the loss depends on")
        return "other weights"

    def resume(self) -> str:
        """Check that a run that is killed half-way and resumed ends with the weights of an uninterrupted one."""
        folder = self.folder / "killed"
        shutil.copytree(self.first, folder)
        early, *later = saved_states(folder)
        for path in later:
            path.unlink()
        train(self.name, output=folder, resume=True)
        if differs := _difference(_final(self.first), _final(folder)):
            raise Failed(
                f"a run resumed from {early.stem} differs from a straight one in {differs}; whatever the objective remembers "
                "between steps must be a buffer (register_buffer), its random numbers must come from the StepContext"
            )
        return "equal bit for bit to a straight run"


def _first_and_last(run: Path) -> tuple[Path, Path]:
    states = saved_states(run)
    return states[0], states[-1]


def _final(run: Path) -> dict[str, Tensor]:
    return load_file(saved_states(run)[-1])


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def _difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor that two states do not share; "" where they are equal."""
    names = sorted(first.keys() ^ second.keys()) or [name for name in first if not torch.equal(first[name], second[name])]
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0] if names else ""


__all__ = ["check_method"]
