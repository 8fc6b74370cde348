"""What every protocol must do: say what its numbers mean, see what an oracle sees, give the same numbers however it is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import Check, Failed, Skipped, Step, carried_out, own_cache
from densebench.conformance.drawn import VIEWS, drawn, kinds
from densebench.conformance.made_backbones import Noise, Oracle, made
from densebench.conformance.trial import Trial, best, better, difference, headline_of, key_of, named, variant, worst
from densebench.datasets.catalog import PICTURES
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator, Run
from densebench.results.score import Score

NEAR, MARGIN = 90.0, 20.0  # %: what an oracle reaches; what noise may exceed 100 / classes by
TRAINABLE = "random:test_vit"
OTHER_BATCH = 3


def check_protocol(name: str, preset: str | None = None, given: Mapping[str, Any] | None = None) -> Iterator[Check]:
    """Yield the checks of a protocol, a name of the catalogue or a path, on drawn data.

    preset: the one whose runs are checked; the first if not given. given: its options, by field name, as `evaluate` takes them.
    Raises UserError where the protocol cannot be read or has no such preset or option.
    """
    kind, preset = catalog.load_preset("protocols", name, preset)
    runs = _Runs(kind, preset, given or {})
    yield from carried_out([
        Step("version", lambda: _version(kind)),
        Step("presets", lambda: _presets(kind), needed=True),
        Step("headline", lambda: _headline(runs), needed=True),
        Step("runs", runs.start, needed=True),
        Step("points", lambda: _points(runs.trial)),
        Step("values", lambda: _values(runs.trial)),
        Step("record", lambda: _record(runs.trial)),
        Step("oracle", lambda: _oracle(runs.trial)),
        Step("noise", lambda: _noise(runs.trial)),
        Step("void", lambda: _void(runs.trial)),
        Step("repeats", lambda: _same(runs.trial, "the same run twice gives", "draw random numbers from a seed of the options")),
        Step("batch size", lambda: _batch_size(runs.trial)),
        Step("runtime", lambda: _runtime(runs.trial)),
        Step("resume", lambda: _resume(runs.trial)),
        Step("workers", lambda: _same(runs.trial, "a process that decodes images gives", _WORKERS, workers=1)),
    ])  # fmt: skip


class _Runs:
    """The first run of a protocol: it decides on which backbone and data the others are made."""

    trial: Trial

    def __init__(self, kind: type[Evaluator], preset: str, given: Mapping[str, Any]) -> None:
        self.kind, self.preset, self.given = kind, preset, given

    def start(self) -> str:
        """Run the protocol on the oracle, or on a network that can be trained where it refuses the oracle."""
        datasets = drawn(self.kind.takes)
        if not datasets:
            *most, last = (f'"{kind}"' for kind in kinds())
            raise Failed(f"takes is {self.kind.takes!r}; it is {', '.join(most)} or {last}")
        first: UserError | None = None
        refusal = ""
        for backbone, is_oracle in ((made(Oracle()), True), (load_backbone(TRAINABLE), False)):
            for dataset in datasets:
                trial = Trial(self.kind, self.preset, self.given, backbone, dataset, is_oracle, refusal)
                try:
                    trial.scores = trial.run()
                except UserError as error:
                    first, refusal = first or error, str(error) if is_oracle else refusal
                    continue
                self.trial = trial
                return self._started(trial)
        assert first is not None
        raise first

    def _started(self, trial: Trial) -> str:
        shown = trial.headlines(trial.scores)
        if not shown:
            had = ", ".join(dict.fromkeys(f"{score.metric} ({score.variant})" for score in trial.scores)) or "nothing"
            headline = trial.evaluator().headline()
            raise Failed(f"run() yields {had}; yield the headline, {headline['metric']} ({headline['variant']})")
        what = {(score.metric, score.variant): score for score in trial.scores}.values()
        words = [f"{each.metric} ({each.variant}) in {each.unit or 'no unit'}, {each.direction} is better" for each in what]
        more = f", and {len(words) - 3} more" if len(words) > 3 else ""
        return f"{trial.backbone.spec} on {trial.dataset.name}: {'; '.join(words[:3])}{more}"


def _version(kind: type[Evaluator]) -> str:
    version = getattr(kind, "version", None)
    if type(version) is not int or version < 1:
        raise Failed(f"version is {version!r}; write version: ClassVar[int] = 1, and raise it when the numbers change")
    return str(version)


def _presets(kind: type[Evaluator]) -> str:
    for preset, values in kind.presets.items():
        try:
            options.build(kind, values, {})
        except (UserError, KeyError) as error:  # KeyError: an option that the protocol does not have
            raise Failed(f"the preset {preset} cannot be built: {error}; correct its options") from error
    return ", ".join(kind.presets)


def _headline(runs: _Runs) -> str:
    evaluator = options.build(runs.kind, runs.kind.presets[runs.preset], {})
    headline = evaluator.headline()
    texts = isinstance(headline, dict) and all(isinstance(value, str) and value for value in headline.values())
    if not texts or set(headline) != {"metric", "variant"}:
        raise Failed(f'headline() returns {headline!r}; return {{"metric": ..., "variant": ...}}, two texts')
    return f"{headline['metric']} ({headline['variant']})"


def _points(trial: Trial) -> str:
    """Check that the headline is scored at every point, once, and comes last."""
    evaluator = trial.evaluator()
    expected = evaluator.points(trial.dataset)
    scored = [tuple(score.axes.items()) for score in trial.headlines(trial.scores)]
    if len(scored) != len(set(scored)) or len({key_of(score) for score in trial.scores}) != len(trial.scores):
        raise Failed("a score is given twice for one point; yield each metric and variant once a point")
    if missing := [point for point in expected if point not in scored]:
        raise Failed(f"points() names {_words(missing[0])}, where nothing is scored; score it or leave it out")
    if more := [point for point in scored if point not in expected]:
        raise Failed(f"run() scores {_words(more[0])}, which points() does not name; return it there, its axes in this order")
    for point in expected:
        at_point = [score for score in trial.scores if tuple(score.axes.items()) == point]
        if not headline_of(evaluator, at_point[-1:]):
            raise Failed(
                f"{at_point[-1].metric} ({at_point[-1].variant}) comes after the headline of {_words(point)}; yield the headline "
                "last: a run that is killed between them would lose the rest"
            )
    return f"{len(expected)}, all scored"


def _words(point: Any) -> str:
    return "(" + ", ".join(f"{name} {value}" for name, value in point) + ")" if point else "the one point without axes"


def _values(trial: Trial) -> str:
    for score in trial.scores:
        if not abs(score.value) < float("inf"):
            raise Failed(f"{named(score)} is no number; leave out what cannot be computed")
        if score.unit == "%" and not 0 <= score.value <= 100:
            raise Failed(f"{named(score)} is not between 0 and 100; give shares in % or another unit")
    return f"{len(trial.scores)} finite numbers"


def _record(trial: Trial) -> str:
    """Check that all settings are in the record, as JSON, and that runtime options are not."""
    evaluator = trial.evaluator()
    settings = evaluator.settings(trial.dataset)
    used = {name for name, value in options.select(evaluator, "setting").items() if value is not None}
    if missing := used - settings.keys():
        raise Failed(f"settings() lacks {', '.join(sorted(missing))}; begin with super().settings(dataset)")
    if foreign := settings.keys() & options.select(evaluator, "runtime").keys():
        raise Failed(f"settings() holds the runtime option {', '.join(sorted(foreign))}; use setting(...) or leave it out")
    try:
        if json.loads(json.dumps(settings)) != settings:
            raise TypeError("they read back otherwise")
    except (TypeError, ValueError) as error:
        raise Failed(f"settings() cannot be written to a record ({error}); return numbers, texts and lists") from error
    return f"{len(settings)} settings"


def _oracle(trial: Trial) -> str:
    _check_labels(trial)
    if not trial.is_oracle:
        raise Skipped(f"it does not score the oracle: {trial.why_not}")
    score = _easiest(trial.headlines(trial.scores))
    if score.unit != "%":
        raise Skipped(f"{named(score)} is not in %; 'noise' compares it")
    wanted = NEAR if score.direction == "higher" else 100 - NEAR
    if (score.value - wanted) * (1 if score.direction == "higher" else -1) < 0:
        if (by := trial.shortened_by) and not _at_chance(trial, score):
            raise Skipped(f"{named(score)}, above chance after the few steps that drawn images give; a larger --{by} shows more")
        raise Failed(
            f"{named(score)} for features that tell the class of every patch; expected {'above' if wanted == NEAR else 'below'} "
            f"{wanted:g}: see whether labels and features are of the same images, patches and classes"
        )
    return named(score)


def _easiest(headlines: Sequence[Score]) -> Score:
    """Return the worst score of the easiest sweep: of points with the same axes. Another sweep may be of corrupted images."""
    sweeps: dict[tuple[str, ...], list[Score]] = {}
    for score in headlines:
        sweeps.setdefault(tuple(score.axes), []).append(score)
    return best([worst(each) for each in sweeps.values()])


def _noise(trial: Trial) -> str:
    _check_labels(trial)
    if not trial.is_oracle:
        raise Skipped("it does not score the oracle, and so not noise either")
    score = best(trial.headlines(trial.run(made(Noise()))))
    oracle = worst(trial.headlines(trial.scores))
    if score.unit != "%":
        if not better(oracle, score):
            raise Failed(f"{named(score)} for noise, {oracle.value:.6g} for the oracle, {score.direction} is better: {_LEAK}")
        return f"{named(score)}, worse than the oracle's {oracle.value:.6g}"
    if _at_chance(trial, score):
        return f"{named(score)}, at chance"
    redrawn = variant(trial.dataset, "redrawn")
    misled = best(trial.headlines(trial.run(dataset=redrawn))) if redrawn else score
    if _at_chance(trial, misled):  # chance is high for this metric, as where one right patch of an image is enough
        return f"{named(score)}; no label leaks: the oracle falls to {misled.value:.6g} where scored labels are drawn anew"
    raise Failed(f"{named(score)} for features that know nothing; chance is {_chance(trial, score)[1]}: {_LEAK}")


def _check_labels(trial: Trial) -> None:
    """Skip a check of what labels decide where a protocol takes pictures or views, and so need not read any."""
    if trial.kind.takes in (PICTURES, VIEWS):
        raise Skipped("it takes pictures, with whatever labels they have")


def _at_chance(trial: Trial, score: Score) -> bool:
    limit, _ = _chance(trial, score)
    return score.value <= limit if score.direction == "higher" else score.value >= limit


def _chance(trial: Trial, score: Score) -> tuple[float, str]:
    """Return how good a share in % may be by chance, and the same in words."""
    limit = 100 / max(3, len(trial.dataset.classes)) + MARGIN
    return (limit, f"below {limit:.0f}") if score.direction == "higher" else (100 - limit, f"above {100 - limit:.0f}")


_LEAK = "see whether scored labels reach the prediction, and whether direction is right"


def _void(trial: Trial) -> str:
    _check_labels(trial)
    dataset = variant(trial.dataset, "void")
    if dataset is None:
        raise Skipped(f"{trial.dataset.kind} have no unlabelled pixels here")
    if not trial.is_oracle:
        trial.run(dataset=dataset)
        return "runs on images half of which is unlabelled"
    score, without = (worst(trial.headlines(scores)) for scores in (trial.run(dataset=dataset), trial.scores))
    if score.unit == "%" and abs(score.value - without.value) > 100 - NEAR:
        raise Failed(
            f"{named(score)} where half is unlabelled, {without.value:.6g} where nothing is; leave out pixels and patches "
            "whose label is dataset.ignore_index, both in training and in scoring"
        )
    return f"{named(score)} where half is unlabelled"


def _same(trial: Trial, what: str, remedy: str, **changed: Any) -> str:
    """Compare the first run with another one."""
    if change := difference(trial.scores, trial.run(**changed)):
        raise Failed(f"{what} {change}; {remedy}")
    return "equal numbers"


def _batch_size(trial: Trial) -> str:
    return _same(trial, f"batches of {OTHER_BATCH} images instead of 16 give", _BATCH, batch_size=OTHER_BATCH)


_BATCH = "batch_size is a runtime option: what one image gives must not depend on its neighbours"


_WORKERS = "what a worker makes of an image must follow from the options and the image alone"


def _runtime(trial: Trial) -> str:
    """Check that no runtime option of the protocol's own changes a number."""
    tried = []
    known = {"device", "workers", "batch_size", "decoder", "gpus", "visualise"}
    for flag in (flag for flag in options.flags(trial.kind) if flag.kind == "runtime" and flag.name not in known):
        value = getattr(trial.evaluator(), flag.name)
        for other in _others(flag.choices, value):
            with suppress(UserError):  # an option may need another one
                change = difference(trial.scores, trial.run(**{flag.name: other}))
                if change:
                    raise Failed(f"{flag.spelling} {other} gives {change}; declare it with setting(...), or mend it")
                tried.append(f"{flag.spelling} {other}")
    if not tried:
        raise Skipped("it has no runtime options of its own")
    return f"{', '.join(tried)}: equal numbers"


def _others(choices: tuple[str, ...], value: Any) -> list[Any]:
    """Return other values of an option to try."""
    if choices:
        return [choice for choice in choices if choice != value]
    if isinstance(value, bool):
        return [not value]
    return [2 * value + 1] if isinstance(value, int) else []


def _resume(trial: Trial) -> str:
    """Check that a run that is killed after its first point and resumed gives what an uninterrupted run gives."""
    points = trial.evaluator().points(trial.dataset)
    if len(points) < 2:
        raise Skipped("one point: there is nothing to resume after it")
    with own_cache():
        before = trial.rest(Run(progress_key="check"), first=True)
        scored = {tuple(score.axes.items()) for score in headline_of(trial.evaluator(), before)}
        after = trial.rest(Run(known=frozenset(scored), progress_key="check"))
    again = [score for score in after if tuple(score.axes.items()) in scored]
    if again:
        raise Failed(f"{named(again[0])} is scored again although run.known holds its point; leave out the points of run.known")
    kept = [score for score in before if tuple(score.axes.items()) in scored]
    if change := difference(trial.scores, [*kept, *after]):
        raise Failed(f"a straight run and one resumed after its first point: {change}; score every point by itself")
    return f"{len(after)} of {len(trial.scores)} scores after a kill, as in a straight run"


__all__ = ["check_protocol"]
