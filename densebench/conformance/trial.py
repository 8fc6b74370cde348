"""A protocol under test: short runs of it on drawn data, and the comparison of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from densebench import options
from densebench.backbones.backbone import Backbone
from densebench.conformance.checking import Failed, own_cache
from densebench.datasets.dataset import Dataset
from densebench.evaluation.option_groups import SlidingWindow
from densebench.evaluation.protocol import Evaluator, Run
from densebench.numerics.arithmetic import float32
from densebench.results.score import SIGNS, Score, heading

TOLERANCE = 1e-6  # relative, below which two numbers count as equal: sums may change their order
RUNTIME = {"device": "cpu", "workers": 0, "batch_size": 16}
SHORT_WINDOWS = {"iterations": 150, "crop_size": 128, "train_batch": 4, "validations": 1}

Key = tuple[str, str, tuple[tuple[str, Any], ...]]


@dataclass
class Trial:
    """A protocol with a preset, options given by the user, and what its runs are made on."""

    kind: type[Evaluator]
    preset: str
    given: Mapping[str, Any]
    backbone: Backbone
    dataset: Dataset
    is_oracle: bool = True
    why_not: str = ""
    """Why the backbone is not the oracle."""
    scores: list[Score] = field(default_factory=list)
    """What the first run gave."""

    @property
    def shortened_by(self) -> str:
        """Return the option, if any, by which a head learns for fewer steps than its learning rate is made for; else "".

        Sliding windows are given fewer iterations here. Epochs of the few drawn images are few steps, whatever their number.
        """
        by = "iterations" if issubclass(self.kind, SlidingWindow) else "epochs"
        return by if by in {flag.name for flag in options.flags(self.kind)} and by not in self.given else ""

    def evaluator(self, dataset: Dataset | None = None, **changed: Any) -> Evaluator:
        """Return the protocol with its options, resolved for a data set."""
        preset = self.kind.presets[self.preset]
        values = {**RUNTIME, **shortened(self.kind, preset), **self.given, **changed}
        return options.build(self.kind, preset, values).resolve(dataset or self.dataset)

    def run(self, backbone: Backbone | None = None, dataset: Dataset | None = None, **changed: Any) -> list[Score]:
        """Return the scores of a run with an empty cache."""
        with own_cache():
            return self.rest(Run(), backbone, dataset, **changed)

    def rest(
        self, run: Run, backbone: Backbone | None = None, dataset: Dataset | None = None, first: bool = False, **changed: Any
    ) -> list[Score]:
        """Return the scores of a run with the cache as it is; with `first`, end it after the first score as a kill would."""
        evaluator, dataset = self.evaluator(dataset, **changed), dataset or self.dataset
        with float32(tf32=False):
            found: list[Score] = []
            scores = evaluator.run(backbone or self.backbone, dataset, run)
            for score in scores:
                if not isinstance(score, Score):
                    raise Failed(f"run() yields a {type(score).__name__}; yield Score(...)")
                found.append(score)
                if first and headline_of(evaluator, [score]):
                    scores.close()  # type: ignore[attr-defined]
                    break
        return found

    def headlines(self, scores: Sequence[Score]) -> list[Score]:
        """Return those of the scores that tables show."""
        return headline_of(self.evaluator(), scores)


def shortened(kind: type[Evaluator], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that make a run short and give several points, where a protocol has what the groups of options offer."""
    short: dict[str, Any] = {}
    if issubclass(kind, SlidingWindow):
        rates = {flag.name: preset.get(flag.name, flag.default) for flag in options.flags(kind)}["learning_rates"]
        short = {**SHORT_WINDOWS, "learning_rates": tuple(sorted(rates)[-1:])}
    for flag in options.flags(kind):
        default = preset.get(flag.name, flag.default)
        if flag.kind == "axis" and isinstance(default, int) and not isinstance(default, bool):
            short[flag.name] = min(default, 2)  # such as a number of seeds
        elif flag.kind == "axis" and isinstance(default, tuple) and len(default) == 1 and type(default[0]) is int and default[0]:
            short[flag.name] = (default[0], default[0] + 1)
    return short


def headline_of(evaluator: Evaluator, scores: Sequence[Score]) -> list[Score]:
    """Return the scores that are the headline of a protocol."""
    headline = evaluator.headline()
    return [score for score in scores if (score.metric, score.variant) == (headline["metric"], headline["variant"])]


def key_of(score: Score) -> Key:
    """Return what tells a score of a run from the others."""
    return score.metric, score.variant, tuple(score.axes.items())


def named(score: Score) -> str:
    """Return a score in words: "miou (identity) at 1/8: 43.2 %"."""
    point = heading(tuple(score.axes.items()))
    at = "" if point == "value" else f" at {point}"
    return f"{score.metric} ({score.variant}){at}: {score.value:.6g}{' ' if score.unit else ''}{score.unit}"


def difference(before: Sequence[Score], after: Sequence[Score]) -> str:
    """Return in words the first difference between the numbers of two runs; "" where there is none."""
    numbers = [{key_of(score): score for score in scores} for scores in (before, after)]
    if lone := [key for key in [*numbers[0], *numbers[1]] if (key in numbers[0]) != (key in numbers[1])]:
        score = (numbers[0] if lone[0] in numbers[0] else numbers[1])[lone[0]]
        return f"{named(score)} is in the {'first' if lone[0] in numbers[0] else 'second'} run alone"
    for key, score in numbers[0].items():
        other = numbers[1][key]
        if abs(other.value - score.value) > TOLERANCE * max(1.0, abs(score.value)):
            return f"{named(score)}, then {other.value:.6g}"
    return ""


def better(first: Score, second: Score) -> bool:
    """Return whether a score is better than another by its direction."""
    return SIGNS[first.direction] * (first.value - second.value) > 0


def worst(scores: Sequence[Score]) -> Score:
    """Return the worst score by the direction."""
    return min(scores, key=lambda score: SIGNS[score.direction] * score.value)


def best(scores: Sequence[Score]) -> Score:
    """Return the best score by the direction."""
    return max(scores, key=lambda score: SIGNS[score.direction] * score.value)


def variant(dataset: Dataset, name: str) -> Dataset | None:
    """Return a drawn data set with its field `name` set: "void" or "redrawn"; None where it has no such field."""
    return replace(dataset, **{name: True}) if hasattr(dataset, name) else None  # type: ignore[arg-type]
