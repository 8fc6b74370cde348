"""`choose`: which of several backbones to take for images of which a few are labelled."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from densebench import options
from densebench.backbones.backbone import Backbone
from densebench.console import each_once, notice, progress, warn
from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.io.decoding import use_decoder
from densebench.errors import UserError
from densebench.evaluation.labelling import Labeller
from densebench.evaluation.plan import Models, Plan, Requested, planned, unique_name
from densebench.evaluation.run import was_stopped
from densebench.evaluation.undisturbed import plain, random_states
from densebench.features.cost import Cost, cost_of
from densebench.few_labels.choice import Choice
from densebench.few_labels.conclusions import Scored, concluded
from densebench.few_labels.cross_validation import CrossValidation, Tallies, labels_in_memory
from densebench.few_labels.folds import folds_of
from densebench.few_labels.groups import find_groups
from densebench.few_labels.labelled import labelled_images, states_splits
from densebench.few_labels.learning_curve import SHARES
from densebench.flag import check_range
from densebench.numerics.arithmetic import float32
from densebench.processes import resolve_device
from densebench.results.result import Failure
from densebench.user_code import guarded

PROTOCOLS = ("incontext", "linear")
MANY = 200  # labelled images from which on whole data sets are better scored by `densebench eval`

T = TypeVar("T")


def choose(
    dataset: str | Path | Dataset,
    models: Models,
    /,
    *,
    protocol: str | Sequence[str] = PROTOCOLS,
    name: str | Sequence[str | None] | None = None,
    weights: str | Path | Sequence[str | Path | None] | None = None,
    layer: str | Sequence[str] = "last",
    split: str | None = None,
    limit: int | None = None,
    groups: str = "auto",
    folds: int = 5,
    repetitions: int = 3,
    image_size: int | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    command: str = "",
    **given: Any,
) -> Choice:
    """Cross-validate backbones on a few labelled images, and return which to take, with all numbers behind the recommendation.

        choice = densebench.choose("photos", ["timm:vit_small_patch14_dinov2", model])     # choice.sentence, choice.frame

    dataset: the folder of images and label maps, or whatever `load_dataset` opens. models: one or several, as `evaluate` takes
    them; name, weights: one for each; layer: one for all, or one for each. protocol: names, comma-separated or as a list, each
    perhaps with a preset behind a slash, "incontext/cribo,linear"; they must label new images, and the first decides. split: the
    split whose images are used; None: all images of a folder without splits of its own, else the training split. limit: the most
    images, evenly spaced. groups: which images are held out together, see `groups.find_groups`. folds: their number; with fewer
    than ten groups each is held out alone. repetitions: random subsets for each point of the learning curve.
    image_size: side in px, rounded down to each backbone's stride; None: the data set's usual one. seed: of folds, subsets and
    `random:` backbones.
    given: pos_embed, role, features, mean, std, debias and upsample as `evaluate` takes them, and options of the protocols such
    as device.

    A backbone that fails is named in the result, and the others are compared. Features are kept in the cache; no record is
    written. Raises UserError for whatever the caller can mend, and where all backbones fail the error of the first.
    """
    options.check_types(options.WHOLE, folds=folds, repetitions=repetitions, image_size=image_size)
    options.check_types(options.TEXT, split=split, groups=groups)
    for label, value, most in (
        ("--folds", folds, 1000),
        ("--repetitions", repetitions, 1000),
        ("--image-size", image_size, 16384),
    ):
        check_range(f"{label} {value}", 2 if value is None else value, 2 if label == "--folds" else 1, most)
    with random_states(), plain():
        if isinstance(dataset, str | Path):
            dataset = load_dataset(dataset, data_root, needs_splits=False)  # folds divide it, not the split of an evaluation
        given |= {"name": name, "weights": weights, "limit": limit, "seed": seed, "data_root": data_root}
        plans = _plans(dataset, models, protocol, layer, **given)
        data = plans[0].datasets[0]
        items = _taken(data, split, limit)
        grouped = find_groups(data, items, groups)
        placed = folds_of(data.presence(items), grouped, folds, seed)
        validation = CrossValidation(data, items, placed, SHARES, repetitions, seed)
        with labels_in_memory(data):
            scored = _scored(plans, validation, image_size)
        return concluded(plans, validation, grouped, scored, image_size, command)


def _plans(
    dataset: str | Path | Dataset, models: Models, protocol: str | Sequence[str], layer: str | Sequence[str], **given: Any
) -> list[Plan]:
    """Return a plan for each protocol. Raises UserError for one that is unknown, twice there, or labels no new images."""
    if models is None or (isinstance(models, list | tuple) and not models):
        raise UserError("name the backbones to choose among: --backbone A --backbone B; `densebench ls backbones` lists them")
    names = [word.strip() for word in protocol.split(",")] if isinstance(protocol, str) else list(protocol)
    if not names or len(set(names)) < len(names):
        raise UserError(f"--protocol {','.join(names)}: give one or several protocols, each once")
    plans = []
    data = load_dataset(dataset, given.get("data_root"), needs_splits=False)
    for each in names:
        found, _, preset = each.partition("/") if not each.startswith((".", "/")) else (each, "", "")
        plan = _with_layers(planned(models, found, data, preset=preset or None, **given), layer)
        if not isinstance(plan.evaluator, Labeller):
            raise UserError(f"--protocol {found} cannot label new images; give {' or '.join(PROTOCOLS)}")
        plans.append(plan)
    return plans


def _with_layers(plan: Plan, layer: str | Sequence[str]) -> Plan:
    """Return a plan whose backbones are read at these layers: one for all of them, or one for each."""
    layers = [layer] if isinstance(layer, str) else list(layer)
    if len(layers) == 1:
        layers *= len(plan.backbones)
    if len(layers) != len(plan.backbones):
        raise UserError(
            f"{len(layers)} --layer for {len(plan.backbones)} backbones: give one for all, or one for each in their order"
        )
    read = [
        dataclasses.replace(each, reading={**each.reading, "layer": wanted})
        for each, wanted in zip(plan.backbones, layers, strict=True)
    ]
    return dataclasses.replace(plan, backbones=read)


def _taken(dataset: Dataset, split: str | None, limit: int | None) -> list[Item]:
    """Return the images that are cross-validated; a notice says which they are. Raises UserError as `labelled_images` does."""
    items: Sequence[Item] = labelled_images(dataset, split, unseen=True)
    others = [each for each in dataset.splits if each != dataset.train_split]
    if split is None and not states_splits(dataset):
        items = sorted(items, key=lambda item: item.name)
        taken = f"all {len(items)}" if limit is None or limit >= len(items) else f"{limit} of {len(items)}"
        notice(f"{taken} labelled images are used; each is held out once")
    elif split is None and others:
        unseen = f"{', '.join(others)} stay unseen (--split NAME uses another)"
        notice(f"the images of the split {dataset.train_split} are used; {unseen}")
    items = limited(items, limit)
    if len(items) > MANY:
        notice(f"{len(items)} labelled images: choose is for few; --limit 50 is faster, `densebench eval` is for more")
    return items


def _scored(plans: Sequence[Plan], validation: CrossValidation, image_size: int | None) -> Scored:
    """Score every backbone by every protocol. Raises the error of the first where all of them fail."""
    requested, scored = plans[0].backbones, Scored([{} for _ in plans], {}, [])
    for each in requested:
        taken = {*scored.costs, *(failure.backbone for failure in scored.failures)}
        result = _attempted(partial(_of_backbone, each, plans, validation, image_size), alone=len(requested) == 1)
        if isinstance(result, BaseException):
            failure = Failure(unique_name(each.label, taken), validation.dataset.name, plans[0].protocol, result)
            scored.failures.append(failure)
            if not failure.is_users:
                traceback.print_exception(result)
            warn(f"{failure.backbone} is left out: {failure.problem}")
            continue
        label, cost, tallies = result
        label = unique_name(label, taken)
        scored.costs[label] = cost
        for by_backbone, tally in zip(scored.tallies, tallies, strict=True):
            by_backbone[label] = tally
    if not scored.costs:
        raise scored.failures[0].error
    return scored


def _attempted(work: Callable[[], T], alone: bool) -> T | BaseException:
    """Return what some work gives, or the error that ended it; raise the error where nothing else is to be done."""
    try:
        with guarded():
            return work()
    except (Exception, SystemExit) as error:
        if alone or was_stopped(error):
            raise
        return error


def _of_backbone(
    requested: Requested, plans: Sequence[Plan], validation: CrossValidation, image_size: int | None
) -> tuple[str, Cost, list[Tallies]]:
    """Return the name of a backbone, its cost, and the tallies of each protocol."""
    backbone = requested.load()
    label = backbone.info.name or backbone.spec + (f", layer {backbone.layer}" if backbone.layer != "last" else "")
    size = side(backbone, validation.dataset, image_size)
    cost = cost_of(backbone, size, resolve_device(plans[0].evaluator.device))
    tallies = []
    for number, plan in enumerate(plans):
        evaluator = plan.evaluator
        assert isinstance(evaluator, Labeller)
        changed = {"image_size": size} if image_size is not None else {}
        evaluator = options.checked(evaluator, **changed).resolve(validation.dataset)
        use_decoder(evaluator.decoder)
        models = validation.models(number == 0)
        shown = progress(f"{label}, {plan.protocol}", models, "models")
        with float32(tf32=evaluator.precision == "tf32"), each_once(), shown as bar:
            tallies.append(validation.tallies(evaluator, backbone, number == 0, bar))
    return label, cost, tallies


def side(backbone: Backbone, dataset: Dataset, image_size: int | None) -> int:
    """Return the side in px at which a backbone sees images: the wanted or usual one, rounded down to its stride."""
    return max(1, (image_size or dataset.image_size_hint) // backbone.multiple) * backbone.multiple
