"""The request of an evaluation, checked before anything runs: a protocol, the backbones and the data sets."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from densebench import catalog, options
from densebench.backbones.backbone import Backbone
from densebench.backbones.callables import check_features
from densebench.backbones.checkpoint import newest_checkpoint, read_checkpoint
from densebench.backbones.loading import checked_label, load_backbone
from densebench.backbones.recognising import colours
from densebench.backbones.sources import check_form
from densebench.console import notice
from densebench.datasets import load_dataset
from densebench.datasets.catalog import built_in, fits, fitting
from densebench.datasets.corrupted import corrupted
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator
from densebench.files.cache import limit_of
from densebench.results.shards import Shard

RANDOM_BASELINE = "random:vit_tiny_patch16_224"
READING_DEFAULTS: Mapping[str, Any] = {"layer": "last", "pos_embed": "auto", "role": "teacher", "seed": 0}
"""How a backbone is read by default, in keywords of `load_backbone`."""
KEYWORDS = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Model = str | Path | nn.Module | Callable[..., Any]
"""What `load_backbone` takes."""
Models = Model | Sequence[Model] | None
Datasets = str | Path | Dataset | Sequence[str | Path | Dataset] | None


@dataclass(frozen=True)
class Requested:
    """A requested backbone, not yet loaded. name: what tables call it; reading: further keywords of `load_backbone`."""

    model: Model
    weights: str | Path | None = None
    name: str | None = None
    reading: Mapping[str, Any] = field(default_factory=lambda: READING_DEFAULTS)

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name or (str(self.model) if isinstance(self.model, str | Path) else _called(self.model))

    def load(self) -> Backbone:
        """Load it. Raises UserError as `load_backbone` does."""
        return load_backbone(self.model, weights=self.weights, name=self.name, **self.reading)


@dataclass(frozen=True)
class Plan:
    """One protocol, the backbones and data sets that it scores, and what is done with the scores."""

    evaluator: Evaluator
    protocol: str
    preset: str
    backbones: Sequence[Requested]
    datasets: Sequence[Dataset]
    results: Path
    limit: int | None
    rerun: bool
    dry_run: bool
    command: str
    shard: Shard | None = None
    """Which part of each record is scored; None: all of it."""

    @property
    def size(self) -> int:
        """How many cells there are: pairs of a backbone and a data set."""
        return len(self.backbones) * len(self.datasets)


def planned(
    model: Models = None,
    /,
    protocol: str | Path | Evaluator | None = None,
    dataset: Datasets = None,
    *,
    preset: str | None = None,
    name: str | Sequence[str | None] | None = None,
    weights: str | Path | Sequence[str | Path | None] | None = None,
    layer: str = "last",
    pos_embed: str = "auto",
    role: str = "teacher",
    seed: int = 0,
    features: Callable[..., Any] | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    debias: int | None = None,
    upsample: str | None = None,
    corrupt: str | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
    results: str | Path = "results",
    rerun: bool = False,
    dry_run: bool = False,
    command: str = "",
    shard: str | None = None,
    **given: Any,
) -> Plan:
    """Return the plan of a call of `evaluate`, with the same parameters; no backbone is loaded, and nothing is scored.

    Raises UserError for whatever is wrong with the call as a whole.
    """
    texts = {"layer": layer, "pos_embed": pos_embed, "role": role, "upsample": upsample, "corrupt": corrupt}
    options.check_types(options.TEXT, preset=preset, command=command, **texts)
    options.check_types(options.WHOLE, debias=debias)
    options.check_types(options.PATH, data_root=data_root, results=results)
    if features is not None:
        check_features(features)
    options.check_types(options.SWITCH, rerun=rerun, dry_run=dry_run)
    options.check_run(seed, limit)
    seed, limit = int(seed or 0), None if limit is None else int(limit)  # of numpy's numbers, which JSON does not know
    evaluator, protocol_name, preset, model = _evaluator(model, protocol, preset, given)
    part = None if shard is None else Shard.read(shard)
    limit_of(evaluator.cache_limit)  # a wrong one is refused before a record is made
    reading = {"layer": layer, "pos_embed": pos_embed, "role": role, "seed": seed}
    more = {
        "features": features,
        "mean": colours(mean, "mean"),
        "std": colours(std, "std"),
        "debias": debias,
        "upsample": upsample,
    }
    reading |= {key: value for key, value in more.items() if value is not None}
    backbones = _backbones(evaluator.source_override(), _several(model, "models"), _several(weights), _several(name), reading)
    backbones, datasets = _with_defaults(evaluator, protocol_name, backbones, _several(dataset, "data sets"), reading)
    opened = _opened(evaluator, protocol_name, len(backbones), datasets, data_root)
    if corrupt is not None:
        opened = [corrupted(each, corrupt, evaluator.splits(each)[1]) for each in opened]
    return Plan(evaluator, protocol_name, preset, backbones, opened, Path(results), limit, rerun, dry_run, command, part)


def _evaluator(
    model: Models, protocol: str | Path | Evaluator | None, preset: str | None, given: dict[str, Any]
) -> tuple[Evaluator, str, str, Models]:
    """Return the protocol with its options, its name, its preset, and the model, which may be given by keyword too.

    A protocol may have an option `model`. Where it has none, the keyword is the model. Raises UserError for what is unknown.
    """
    is_protocol = isinstance(model, str) and model in catalog.names("protocols")
    if protocol is None or is_protocol or "backbones" in given or "datasets" in given:
        raise UserError(f"evaluate takes the model first: {_new_call(model, protocol, given)}")
    kind, name, preset = _configured(protocol, preset, given) if isinstance(protocol, Evaluator) else _named(protocol, preset)
    own = {flag.name for flag in options.flags(kind)}
    parameters = {name for name, each in inspect.signature(planned).parameters.items() if each.kind in KEYWORDS}
    if clash := sorted(own & parameters):
        raise UserError(f"{name}: evaluate has a parameter {clash[0]} already; give the option {clash[0]} another name")
    if model is None and "model" not in own:
        model = given.pop("model", None)
    evaluator = options.checked(protocol) if isinstance(protocol, Evaluator) else options.build(kind, kind.presets[preset], given)
    return evaluator, name, preset, model


def _new_call(model: Any, protocol: Any, given: Mapping[str, Any]) -> str:
    """Return the right spelling of a call that names no protocol or passes `backbones=`, as older versions took it."""
    names = [each for each in (model, protocol) if isinstance(each, str)]
    name = next((each for each in names if each in catalog.names("protocols") or catalog.is_path(each)), "incontext")
    models, datasets = (given.get(key, (default,)) for key, default in (("backbones", "random:test_vit"), ("datasets", "scenes")))
    shown = [list(value) if isinstance(value, list | tuple) else value for value in (models, datasets)]
    model, dataset = (value[0] if isinstance(value, list) and len(value) == 1 else value for value in shown)
    return f"evaluate({_shown(model)}, {_shown(name)}, {_shown(dataset)})"


def _shown(value: Any) -> str:
    """Return a value as it stands in a call: texts as they are written, any other object by its class."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value) if isinstance(value, str) else f"<{_called(value)}>"


def _called(model: object) -> str:
    """Return what messages call an object: the spec of a backbone, the name of a class or of a function."""
    return str(getattr(model, "spec", None) or getattr(model, "__name__", None) or type(model).__name__)


def _several(value: Any, what: str = "") -> list[Any]:
    """Return a list or a tuple as a list, None as an empty one, and anything else as a list of one.

    Raises UserError for an empty list of `what`: the defaults are for None.
    """
    if what and isinstance(value, list | tuple) and not value:
        raise UserError(f"the list of {what} is empty; give one or several, or None for the default")
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _named(protocol: str | Path, preset: str | None) -> tuple[type[Evaluator], str, str]:
    """Return the class behind the name or the path of a protocol, the name and the preset. Raises UserError where unknown."""
    if not isinstance(protocol, str | Path):
        given = f"the class {protocol.__name__}" if isinstance(protocol, type) else f"of the class {type(protocol).__name__}"
        raise UserError(f"the protocol is {given}; give one: a name, the path of a Python file, or an object such as InContext()")
    name = protocol if isinstance(protocol, str) else _path_as_name(protocol)
    kind, preset = catalog.load_preset("protocols", name, preset)
    return kind, name, preset


def _path_as_name(path: Path) -> str:
    """Return a path as users type it: `./mine.py`, `./mine/`. It becomes the name of the protocol in a record."""
    text = f"{path.as_posix()}/" if path.is_dir() else path.as_posix()
    return text if path.is_absolute() or text.startswith(".") else f"./{text}"


def _configured(evaluator: Evaluator, preset: str | None, given: Mapping[str, Any]) -> tuple[type[Evaluator], str, str]:
    """Return the class of a configured protocol, its name in the catalogue, and the preset that its settings are nearest to.

    The preset only labels a record; the settings decide which numbers compare. Of several the first one is taken.
    Raises UserError for a preset or options beside the object, and for a class that is in no file.
    """
    kind = type(evaluator)
    beside = [*(["preset"] if preset is not None else []), *(name for name in given if name != "model")]
    if beside:
        remedy = f"write {kind.__name__}({beside[-1]}=...)" if preset is None else "give its name to choose a preset"
        raise UserError(f"{kind.__name__}(...) is configured already, so {', '.join(beside)} cannot be given too; {remedy}")
    settings = options.select(evaluator, "setting")

    def distance(name: str) -> int:
        named = options.select(options.build(kind, kind.presets[name], {}), "setting")
        return sum(named[key] != value for key, value in settings.items())

    return kind, catalog.name_of("protocols", kind), min(kind.presets, key=distance)


def _backbones(
    override: Backbone | None, models: list[Model], weights: list[Any], names: list[Any], reading: Mapping[str, Any]
) -> list[Requested]:
    """Return the requested backbones, or `override` alone. Raises UserError for arguments that exclude one another."""
    if override is not None and (models or weights or reading != READING_DEFAULTS):
        raise UserError(
            f"{override.spec} is scored as it is; "
            "leave out --backbone, --weights, --layer, --pos-embed, --mean, --std, --role, --seed, --debias and --upsample"
        )
    models = models if override is None else [override]
    pairs = zip(models, _paired("--weights", weights, len(models)), _paired("--name", names, len(models)), strict=True)
    for spec in models:
        if isinstance(spec, str) and not os.path.exists(spec):  # noqa: PTH110 (Path raises for a name that is too long)
            check_form(spec)
    return [Requested(model, file, name, reading) for model, file, name in pairs]


def _paired(flag: str, values: list[Any], count: int) -> list[Any]:
    """Return one value for each of `count` backbones. Raises UserError for another number, and for a name that breaks tables."""
    if values and len(values) != count:
        if len(values) == 1:
            raise UserError(f"{flag} {values[0]} goes with one --backbone; {count} are given: give one {flag} for each")
        raise UserError(f"{len(values)} {flag} for {count} backbones: give one for each, in the order of the backbones")
    for name in values if flag == "--name" else ():
        options.check_types(options.TEXT, name=name)
        checked_label(name)
    return values or [None] * count


def _with_defaults(
    evaluator: Evaluator, protocol: str, backbones: list[Requested], datasets: list[Any], reading: Mapping[str, Any]
) -> tuple[list[Requested], list[Any]]:
    """Return the backbones and data sets, with defaults where none are given; a notice names each default."""
    takes = evaluator.takes
    if not datasets and not fits("label maps", takes):
        raise UserError(f"--protocol {protocol} takes {takes}; name some with --dataset: {fitting(takes)}")
    if not backbones:
        newest = newest_checkpoint(Path("runs"))
        if newest is None:
            method = next(iter(catalog.entries("methods")), "")
            remedy = f"`densebench pretrain {method}` makes a better one" if method else "name one with --backbone"
            spec, ending = RANDOM_BASELINE, f", untrained; {remedy}"
        else:
            spec, ending = f"ckpt:{newest}", ""
        backbones = [Requested(spec, reading=reading)]
        datasets = datasets or [(newest and _trained_on(newest)) or "scenes"]
        notice(f"no --backbone: scoring {spec}{ending}")
    if not datasets:
        datasets = ["scenes"]
        notice("no --dataset: scoring on the generated data set scenes")
    return backbones, datasets


def _trained_on(folder: Path) -> str | None:
    """Return the data set that a checkpoint names, if any. Raises UserError for one that is neither built in nor a folder."""
    name = read_checkpoint(folder).get("dataset")
    if name is not None and not (str(name) in built_in() or str(name).startswith(("folder:", "frames:", "boxes:"))):
        raise UserError(f"ckpt:{folder} was trained on {name!r}, which is not built in; name what to score on with --dataset")
    return name


def _opened(evaluator: Evaluator, protocol: str, backbones: int, datasets: list[Any], root: str | Path | None) -> list[Dataset]:
    """Return the data sets. Raises UserError for one of another kind, and for a number of runs that does not fit."""
    opened = [load_dataset(dataset, root) for dataset in datasets]
    if (option := evaluator.alone()) and backbones * len(opened) > 1:
        raise UserError(f"{option} goes with one backbone and one data set; {backbones} and {len(opened)} are given")
    takes = evaluator.takes
    for dataset in opened:
        if not fits(dataset.kind, takes):
            raise UserError(f"--dataset {dataset.name} has {dataset.kind}; {protocol} takes {takes}: {fitting(takes)}")
    return opened


def unique_name(name: str, taken: Collection[str]) -> str:
    """Return a name that no other backbone has: the second of one name gets " (2)"."""
    number, shown = 1, name
    while shown in taken:
        number += 1
        shown = f"{name} ({number})"
    return shown
