"""What follows from the tallies of a cross-validation: standings, learning curves, the sentence and the notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densebench import catalog
from densebench.errors import UserError
from densebench.evaluation.plan import Plan
from densebench.features.cost import Cost
from densebench.few_labels.choice import Choice
from densebench.few_labels.comparison import Comparison, compared
from densebench.few_labels.cross_validation import CrossValidation, Tallies, most_frequent
from densebench.few_labels.folds import not_in_training
from densebench.few_labels.groups import Groups, suggested_pattern
from densebench.few_labels.learning_curve import Curve, continued, of_repetitions
from densebench.few_labels.paired import by_group, draws, mean_iou, replicates
from densebench.few_labels.recommendation import recommendation
from densebench.processes import describe, resolve_device
from densebench.results.result import Failure


@dataclass
class Scored:
    """What was measured: the tallies of each protocol by backbone, costs, and what failed."""

    tallies: list[dict[str, Tallies]]
    costs: dict[str, Cost]
    failures: list[Failure]


def concluded(
    plans: Sequence[Plan],
    validation: CrossValidation,
    grouped: Groups,
    scored: Scored,
    image_size: int | None,
    command: str,
) -> Choice:
    """Return the result. image_size: as it was wanted, None for the usual one. Raises UserError as `comparable_classes` does."""
    data, group = validation.dataset, grouped.of_image
    kept, left_out = comparable_classes([tally for tallies in scored.tallies for tally in tallies.values()], group)
    comparisons = []
    for plan, tallies in zip(plans, scored.tallies, strict=True):
        rows = {name: _columns(tally.whole, tally.names, kept) for name, tally in tallies.items()}
        first = next(iter(tallies.values()))
        chance = _columns(most_frequent(first.whole, validation.folds), first.names, kept)
        comparisons.append(compared(_protocol_name(plan, plans), plan.preset, rows, chance, group, kept))
    curves = {name: _curve(tally, kept, group, validation) for name, tally in scored.tallies[0].items()}
    sentence = recommendation(
        comparisons,
        {name: cost.images_per_second for name, cost in scored.costs.items()},
        [failure.backbone for failure in scored.failures],
    )
    return Choice(
        dataset=data.name,
        title=data.title or data.name,
        images=len(validation.items),
        groups=grouped.count,
        folds=len(np.unique(validation.folds)),
        size=f"{image_size or data.image_size_hint} px",
        device=describe(resolve_device(plans[0].evaluator.device)),
        comparisons=tuple(comparisons),
        costs=scored.costs,
        curves=curves,
        sentence=sentence,
        notes=(*_notes(validation, grouped, left_out, comparisons), *_not_in_training_note(scored, kept, validation.folds)),
        failures=tuple(scored.failures),
        command=command,
    )


def comparable_classes(tallies: Sequence[Tallies], group: np.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes that at least two groups show in every tally, and of those that are shown but not so.

    A class of one group can be learned or tested, never both. Backbones of other strides see images at other sizes, at which a
    class of a few pixels may be lost: all are compared by the same classes, also where one group is left out. Raises UserError
    where fewer than two classes are left.
    """
    shown = [dict(zip(each.names, (by_group(each.whole, group)[:, 1] > 0).sum(0).tolist(), strict=True)) for each in tallies]
    names = tuple(dict.fromkeys(name for each in shown for name in each))
    kept = tuple(name for name in names if min(each.get(name, 0) for each in shown) >= 2)
    if len(kept) < 2:
        raise UserError(
            f"{len(kept)} of {len(names)} classes are in two or more of the {len(group)} labelled images (a group counts once); "
            "a comparison takes at least two such classes: label more images"
        )
    return kept, tuple(name for name in names if name not in kept and max(each.get(name, 0) for each in shown) > 0)


def _protocol_name(plan: Plan, plans: Sequence[Plan]) -> str:
    """Return the name of a protocol, with its preset where another preset of it is compared too."""
    several = sum(each.protocol == plan.protocol for each in plans) > 1
    name = catalog.short_name("protocols", plan.protocol)
    return f"{name}/{plan.preset}" if several else name


def _columns(tally: np.ndarray, names: Sequence[str], kept: Sequence[str]) -> np.ndarray:
    """Return the tallies of some classes; protocols may number them differently, or have one more."""
    return tally[:, :, [list(names).index(name) for name in kept]]


def _curve(tallies: Tallies, kept: Sequence[str], group: np.ndarray, validation: CrossValidation) -> Curve:
    """Return the learning curve of a backbone by the protocol that decides."""
    groups = int(group.max()) + 1
    times = draws(groups, seed=validation.seed)
    by_size = {**tallies.smaller, trained_on(validation.folds): [tallies.whole]}
    values, drawn = [], []
    for each in by_size.values():
        rows = [by_group(_columns(tally, tallies.names, kept), group) for tally in each]
        values.append(float(np.mean([mean_iou(row.sum(0)) for row in rows])))
        drawn.append(of_repetitions(np.stack([replicates(row, times) for row in rows]), validation.seed))
    return continued(list(by_size), values, drawn, groups, len(group))


def trained_on(folds: np.ndarray) -> int:
    """Return from how many images, on average over the held-out ones, the model that predicts an image has learned."""
    return round(len(folds) - float((np.bincount(folds) ** 2).sum()) / len(folds))


def _not_in_training_note(scored: Scored, kept: Sequence[str], folds: np.ndarray) -> list[str]:
    """Return what is said of classes that are compared although in one fold no model could learn them; nothing for none."""
    first = next(iter(scored.tallies[0].values()))
    missing = np.flatnonzero(not_in_training(folds, _columns(first.whole, first.names, kept)[:, 1] > 0).sum(axis=0))
    names = ", ".join(kept[number] for number in missing.tolist())
    return (
        [f"{names}: in one fold all images that show it are held out, so no backbone can learn it for that fold."]
        if names
        else []
    )


def _notes(validation: CrossValidation, grouped: Groups, left_out: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the notes of a choice: how to read its numbers, and what is left out of them."""
    count = len(np.unique(validation.folds))
    decides = f"{comparisons[0].protocol} decides" if len(comparisons) > 1 else ""
    notes = [
        f"Every image is predicted once, by the one of {count} models not trained on it; mIoU is over all pixels together"
        + (f"; {decides}." if decides else "."),
        "Intervals (95 %, jackknife over images, paired for differences) cover the choice of predicted images, not that of "
        "training images; they are not corrected for comparing several backbones.",
        "These numbers rank backbones on these images only; they are not records, and not comparable with those in any table.",
    ]
    if grouped.rule:
        notes.append(
            f"{grouped.rule}: images of a group are held out together; intervals are over {grouped.count} groups. The learning "
            "curve adds images of the same groups; images of new groups may bring more."
        )
    elif told := suggested_pattern(validation.items):
        notes.append(f"{told[0].upper()}{told[1:]}.")
    if grouped.doubt:
        notes.append(f"{grouped.doubt}.")
    if left_out:
        what = f"{', '.join(left_out)}: visible in a single image or group after resizing, and left out of the mean"
        notes.append(f"{what}; label a second image of {'it' if len(left_out) == 1 else 'each'}.")
    return notes
