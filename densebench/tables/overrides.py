"""`--set KEY=VALUE`: a table made small for a rehearsal, whose results stay out of the real one."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from densebench.console import notice, one_line
from densebench.errors import UserError, unknown
from densebench.files.atomic import canonical_json
from densebench.tables import keys
from densebench.tables.entries import BackboneEntry, EvaluationEntry, FigureEntry, Kind, PretrainEntry, Table
from densebench.tables.known import Known

DATA = ("data", "dataset", "datasets")
LABEL_MAPS = "label maps"
COUNTING = ("fractions", "neighbours")
"""Axes of which a value may be too great for few images: those above their number are left out."""
UNCHANGED = ("pretrain", "pixels")
"""Kinds of spec that have no architecture of their own: `arch` leaves them."""


def overridden(table: Table, overrides: Sequence[str], known: Known) -> Table:
    """Return the table with `KEY=VALUE` applied to every entry that takes the key, and with these in `rehearsal`.

    arch: of the pretrainings; every other backbone becomes random:ARCH. data: what is trained and scored on; dataset, datasets:
    only what is scored on. A protocol takes those data sets that have the labels that it needs (of `scenes`, scenes-boxes,
    scenes-objects, scenes-videos or scenes-keypoints where it needs such) and keeps its own where there are none. limit: of the
    images, and so of fractions and of numbers of neighbours. Any other key is an option of a method or a protocol and changes
    every entry that has it; a notice says where none has, so that one command rehearses any table. Networks and pretrainings that
    become the same get different seeds. Raises UserError for a key that no method and no protocol has, and for a value that an
    entry does not take.
    """
    given = dict(_parsed(text) for text in overrides)
    for key, value in given.items():
        with keys.within(f"--set {key}={_shown(value)}"):
            table = _with(table, key, value, known)
    if not given:
        return table
    table = dataclasses.replace(table, rehearsal={key: _shown(value) for key, value in given.items()})
    return _told_apart(table)


def _parsed(text: str) -> tuple[str, Any]:
    """Return the key and the value of KEY=VALUE: a TOML value, or else a plain text."""
    key, equals, value = text.partition("=")
    key = key.strip().lstrip("-").replace("-", "_")
    if not key or not equals or not value.strip():
        raise UserError(f"--set {text}: it takes KEY=VALUE, such as epochs=1")
    try:
        read = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value.strip()
    plain = list(read) == ["value"] and isinstance(read["value"], str | int | float | bool | list)
    return key, read["value"] if plain else value.strip()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(",".join(map(_shown, value)) if isinstance(value, list) else str(value))


def _with(table: Table, key: str, value: Any, known: Known) -> Table:
    """Return the table with one override; a notice says where no entry takes it. Raises UserError for what is no option."""
    if key in DATA:
        return _with_data(table, key, value, known)
    changed = table
    if key == "arch":
        changed = dataclasses.replace(changed, backbones=tuple(_random(each, str(value)) for each in table.backbones))
    changed = dataclasses.replace(
        changed,
        pretrainings=tuple(_pretraining(each, key, value) for each in table.pretrainings),
        evaluations=tuple(_evaluation(each, key, value) for each in table.evaluations),
        figures=tuple(_figure(each, key, value) for each in table.figures),
    )
    if key not in (taken := _taken(table)):
        if key not in known.options:
            raise unknown("key", key, taken, f"the entries of this table take {', '.join(taken)}")
        notice(f"--set {key} changes nothing: it is an option of other methods and protocols than those of {table.name}")
    return changed


def _taken(table: Table) -> list[str]:
    """Return every key that an entry of the table takes."""
    scored = [*table.evaluations, *(each.evaluation for each in table.figures if each.evaluation is not None)]
    kinds = [each.kind for each in table.pretrainings] + [each.kind for each in scored]
    options = [name for kind in kinds for name in kind.flags]
    mapped = any("dataset" in each.settings for each in table.figures)
    own = [*(["arch"] if table.backbones else []), *(["data"] if table.pretrainings or scored or mapped else [])]
    own += ["dataset", "datasets"] if scored or mapped else []
    return list(dict.fromkeys([*own, *(["limit"] if table.pretrainings or scored else []), *options]))


def _options(entry: PretrainEntry | EvaluationEntry, key: str, value: Any) -> dict[str, Any] | None:
    """Return the options of an entry with one changed; None where it does not take that."""
    flag = entry.kind.flags.get(key)
    return None if flag is None else {**entry.options, key: keys.option(flag, value)}


def _pretraining(entry: PretrainEntry, key: str, value: Any) -> PretrainEntry:
    if key == "limit":
        return dataclasses.replace(entry, limit=keys.read_key("limit", value, keys.PRETRAIN))
    options = _options(entry, key, value)
    if options is None:
        return entry
    if key in ("epochs", "steps"):
        options.pop("steps" if key == "epochs" else "epochs", None)
    if key == "arch" and entry.init is not None and entry.init.partition(":")[0] not in UNCHANGED:
        entry = dataclasses.replace(entry, init=f"random:{value}", weights=None, url=None, sha256=None)
    return dataclasses.replace(entry, options=options)


def _evaluation(entry: EvaluationEntry, key: str, value: Any) -> EvaluationEntry:
    if key == "limit":
        limit = keys.read_key("limit", value, keys.EVALUATION)
        return dataclasses.replace(entry, limit=limit, options=_within_limit(entry, limit))
    options = _options(entry, key, value)
    return entry if options is None else dataclasses.replace(entry, options=options)


def _within_limit(entry: EvaluationEntry, limit: int) -> Mapping[str, Any]:
    """Return the options of an entry without points that so few images may not have."""
    options = dict(entry.options)
    for axis in COUNTING:
        flag = entry.kind.flags.get(axis)
        if flag is not None and flag.kind == "axis" and flag.is_list:
            values = options.get(axis, flag.default)
            if any(value > limit for value in values):
                options[axis] = [value for value in values if value <= limit] or [1]
    return options


def _figure(entry: FigureEntry, key: str, value: Any) -> FigureEntry:
    """Return a figure whose evaluation has an override; as many pictures as before, of blocks that `arch` has."""
    if key == "arch" and "layers" in entry.settings:
        return dataclasses.replace(entry, settings={**entry.settings, "layers": None})
    if entry.evaluation is None or key == "visualise":
        return entry
    return dataclasses.replace(entry, evaluation=_evaluation(entry.evaluation, key, value))


def _random(entry: BackboneEntry, arch: str) -> BackboneEntry:
    """Return a backbone as an untrained one; blocks that its layer numbers may not be there in `arch`."""
    if entry.spec.partition(":")[0] == "pretrain":
        return dataclasses.replace(entry, layer=_named(entry.layer))
    if entry.spec.partition(":")[0] in UNCHANGED:
        return entry
    return dataclasses.replace(
        entry, spec=f"random:{arch}", weights=None, url=None, sha256=None, layer=_named(entry.layer), role="teacher"
    )


def _named(layer: str) -> str:
    return layer if layer.isalpha() else "last"


def _with_data(table: Table, key: str, value: Any, known: Known) -> Table:
    names = keys.read_key(key, value if isinstance(value, list) else str(value).split(","), {key: keys.NAMES})
    names = tuple(dict.fromkeys(name.strip() for name in names))
    for name in names if table.pretrainings and key == "data" else ():
        known.check_images(name)
    for name in names if table.evaluations or table.figures else ():
        known.check_labelled(name)

    def scored(entry: EvaluationEntry) -> EvaluationEntry:
        fitting = tuple(known.fitting(names, entry.kind))
        return dataclasses.replace(entry, datasets=fitting) if fitting else entry

    def shown(entry: FigureEntry) -> FigureEntry:
        if "dataset" in entry.settings:
            labelled = known.fitting(names, Kind({}, LABEL_MAPS))
            return dataclasses.replace(entry, settings={**entry.settings, "dataset": labelled[0]}) if labelled else entry
        return entry if entry.evaluation is None else dataclasses.replace(entry, evaluation=scored(entry.evaluation))

    evaluations, figures = tuple(map(scored, table.evaluations)), tuple(map(shown, table.figures))
    pretrainings = table.pretrainings
    if key == "data":
        pretrainings = tuple(dataclasses.replace(entry, data=names) for entry in table.pretrainings)
    if (pretrainings, figures) == (table.pretrainings, table.figures) and not evaluations:
        raise unknown("key", key, _taken(table), f"the entries of this table take {', '.join(_taken(table))}")
    return dataclasses.replace(table, pretrainings=pretrainings, evaluations=evaluations, figures=figures)


def _told_apart(table: Table) -> Table:
    """Return the table with other seeds for what has become the same: networks at random, pretrainings."""
    taken: dict[str, set[int]] = {}

    def seed(entry: Any) -> Any:
        seeds = taken.setdefault(canonical_json({**entry.work(), "seed": None}), set())
        free = entry.seed if entry.seed not in seeds else next(number for number in itertools.count() if number not in seeds)
        seeds.add(free)
        return dataclasses.replace(entry, seed=free)

    backbones = tuple(seed(each) if each.spec.startswith("random:") else each for each in table.backbones)
    return dataclasses.replace(table, backbones=backbones, pretrainings=tuple(seed(each) for each in table.pretrainings))
