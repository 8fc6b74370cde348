"""A table file, read and checked: which backbones are scored by which protocols on which data sets.

    title = "Two backbones on VOC"
    published = "neco:8"                         # the paper and the table of it that the results stand beside
    [[backbone]]
    spec = "timm:vit_small_patch16_224"          # or pretrain:NAME, the checkpoint of a pretraining of this file
    weights = "dino_deitsmall16_pretrain.pth"    # relative to --weights-dir; url and sha256 say where it comes from
    name = "DINO ViT-S/16"                       # also layer, pos_embed, role, seed, mean, std, row
    [[pretrain]]                                 # its checkpoint is a backbone, too
    method = "cribo"
    data = ["coco"]                              # also preset, variant, init, weights, seed, limit, and options of the method
    name = "CrIBo lambda_pos={lambda_pos}"
    sweep.lambda_pos = [0, 1, 2]                 # every value, and with several swept keys every combination
    [[evaluation]]
    protocol = "incontext"
    datasets = ["ade20k", "voc"]                 # also preset, backbones, limit, and options of the protocol
    [[figure]]                                   # a sheet of pictures, curves or maps, see `figure_keys`
    number = 3
    pictures = {pretraining = "matches"}
    [[missing]]                                  # published numbers that nothing here measures
    row = {method = "LOCA"}                      # columns of published.csv, as in a backbone's row
    why = "its weights are not public"

Other paths than those of weights start at the current folder, as on the command line. Reading imports neither torch nor a
method; user code is imported only where its options cannot be read from the source.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densebench import catalog
from densebench.backbones.sources import check_form
from densebench.console import one_line
from densebench.errors import UserError, unknown
from densebench.tables import keys
from densebench.tables.cells import check_distinct
from densebench.tables.entries import (
    PRETRAIN,
    READING,
    BackboneEntry,
    EvaluationEntry,
    FigureEntry,
    MissingEntry,
    PretrainEntry,
    Table,
)
from densebench.tables.figure_keys import read_figure
from densebench.tables.keys import within
from densebench.tables.known import Known
from densebench.tables.overrides import overridden
from densebench.tables.shipped import ENDING, shipped_files
from densebench.tables.sweeps import points, shown_value

WORK = ("backbone", "pretrain", "evaluation", "figure")
ENTRIES = (*WORK, "missing")
HEAD = ("title", "published")


def read_table(source: str | Path, overrides: Sequence[str] = ()) -> Table:
    """Return the table of a TOML file, or of the name of a shipped one, with `KEY=VALUE` overrides applied.

    A table with overrides is a rehearsal: `Table.rehearsal` names them. Raises UserError, in one line that names the file, the
    entry and the key, for whatever is wrong.
    """
    name, where, content = _content(source)
    with within(where):
        known = Known()
        table = _table(name, content, known)
        if isinstance(source, Path) or _is_path(str(source)):
            table = dataclasses.replace(table, file=Path(source))
        _check_references(table)
        table = overridden(table, overrides, known)
        check_distinct(table)
    return table


def _is_path(source: str) -> bool:
    return source.endswith(ENDING) or "/" in source or os.path.isfile(source)  # noqa: PTH113 (Path raises for a name that is too long)


def _content(source: str | Path) -> tuple[str, str, dict[str, Any]]:
    """Return the name of a table, what messages call its file, and its values. Raises UserError where it cannot be read."""
    if isinstance(source, Path) or _is_path(source):
        path = Path(source)
        try:
            return path.stem, str(path), tomllib.loads(path.read_bytes().decode())
        except OSError as error:
            raise UserError(f"cannot read the table {path}: {error.strerror}; give a TOML file or a name of {_LS}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not TOML: {one_line(str(error))}; give a TOML file or a name of {_LS}") from error
    known = shipped_files()
    if source not in known:
        raise unknown("table", source, known, f"give the path of a TOML file or a name of {_LS}")
    return source, source, tomllib.loads(known[source].read_text(encoding="utf-8"))


_LS = "`densebench ls tables`"


def _table(name: str, content: Mapping[str, Any], known: Known) -> Table:
    for key in content:
        if key not in (*HEAD, *ENTRIES):
            raise unknown("key", key, [*HEAD, *ENTRIES], f"a table has {', '.join(HEAD)} and [[{']], [['.join(ENTRIES)}]]")
    head = {key: keys.read_key(key, content[key], {"title": keys.NAME, "published": keys.NAME}) for key in HEAD if key in content}
    if (published := head.get("published")) and not all(published.partition(":")):
        raise UserError(f"published = {published}: it takes PAPER:TABLE, such as neco:8")
    if not any(key in content for key in WORK):
        raise UserError("it is no table: it has no [[backbone]], [[pretrain]], [[evaluation]] or [[figure]]")
    entries = {kind: _entries(kind, content.get(kind, [])) for kind in ENTRIES}
    pretrainings = tuple(each for where, entry in entries["pretrain"] for each in _pretrainings(where, entry, known))
    given = [_backbone(where, entry) for where, entry in entries["backbone"]]
    evaluations = tuple(_evaluation(where, entry, known) for where, entry in entries["evaluation"])
    figures = tuple(read_figure(where, entry, known) for where, entry in entries["figure"])
    missing = tuple(_missing(where, entry) for where, entry in entries["missing"])
    return Table(name, backbones=_with_checkpoints(given, pretrainings), pretrainings=pretrainings, evaluations=evaluations,
                 figures=figures, missing=missing, **head)  # fmt: skip


def _entries(kind: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return each entry of a kind, and what messages call it. Raises UserError for anything but an array of tables."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UserError(f"write [[{kind}]] above each entry, with two brackets")
    return [(f"[[{kind}]] {number}", entry) for number, entry in enumerate(value, 1)]


def _backbone(where: str, entry: Mapping[str, Any]) -> BackboneEntry:
    with within(where):
        values = keys.read_keys(entry, keys.BACKBONE, ("spec",))
        spec, weights = values["spec"], values.get("weights")
        if not spec.startswith(PRETRAIN) and not os.path.exists(spec):  # noqa: PTH110 (as above)
            check_form(spec)
        if weights is not None and not spec.startswith("timm:"):
            raise UserError(f'weights = {weights} goes with spec = "timm:NAME", not with {spec}')
        reading = [f"{key}={values[key]}" for key in READING if key in values]
        name = " ".join([spec, *([Path(weights).name] if weights else []), *reading])
        return BackboneEntry(**{"name": name, **values, "where": where})


def _pretrainings(where: str, entry: Mapping[str, Any], known: Known) -> list[PretrainEntry]:
    """Return the points of the sweep of an entry; one without a sweep."""
    with within(where):
        if "method" not in entry:
            raise UserError("method is missing: it takes a name of `densebench ls methods`")
        method, sweep = keys.read_key("method", entry["method"], keys.PRETRAIN), entry.get("sweep", {})
        options = [flag.name for part in known.entry("methods", method).parts for flag in part.flags()]
        swept = list(dict.fromkeys([*keys.SWEPT, *options]))
        for key in sweep if isinstance(sweep, dict) else ():
            if key not in swept:
                raise unknown("key in sweep", key, swept, f"it takes {', '.join(keys.SWEPT)} and the options of {method}")
        return [_pretraining(where, entry, point, values, known) for point, values in points(entry)]


def _pretraining(
    where: str, entry: Mapping[str, Any], point: Mapping[str, Any], swept: Mapping[str, Any], known: Known
) -> PretrainEntry:
    method, preset, init = point["method"], point.get("preset"), point.get("init")
    kind = known.kind("methods", method, None if preset is None else keys.read_key("preset", preset, keys.PRETRAIN))
    values = keys.read_entry(point, keys.PRETRAIN, ("method", "data"), kind.flags)
    for name in values["data"]:
        known.check_images(name)
    if init is not None and not init.startswith(PRETRAIN):
        check_form(init)
    if (weights := values.get("weights")) is not None and not (init or "").startswith("timm:"):
        raise UserError(f'weights = {weights} goes with init = "timm:NAME"; give that too, or leave weights out')
    if "epochs" in values["options"] and "steps" in values["options"]:
        raise UserError("epochs and steps are given; leave one of them out")
    label = catalog.short_name("methods", method) + (f"/{preset}" if preset else "")
    name = " ".join([label, *(f"{key}={shown_value(value)}" for key, value in swept.items())])
    given = entry.get("name")
    group = given if isinstance(given, str) else label
    return PretrainEntry(**{"name": name, **values, "swept": swept, "group": group, "where": where, "kind": kind})


def _evaluation(where: str, entry: Mapping[str, Any], known: Known) -> EvaluationEntry:
    with within(where):
        protocol, preset = (
            keys.read_key(key, entry[key], keys.EVALUATION) if key in entry else None for key in ("protocol", "preset")
        )
        if protocol is None:
            raise UserError("protocol is missing: it takes a name of `densebench ls protocols`")
        kind = known.kind("protocols", protocol, preset)
        values = keys.read_entry(entry, keys.EVALUATION, ("datasets",), kind.flags)
        if twice := _twice(values["datasets"]):
            raise UserError(f"datasets names {twice} twice")
        for name in values["datasets"]:
            known.check_labelled(name)
            known.check_labels(name, protocol, kind.takes)
        return EvaluationEntry(**values, where=where, kind=kind)


def _missing(where: str, entry: Mapping[str, Any]) -> MissingEntry:
    with within(where):
        return MissingEntry(**keys.read_keys(entry, keys.MISSING, keys.MISSING), where=where)


def _with_checkpoints(given: list[BackboneEntry], pretrainings: tuple[PretrainEntry, ...]) -> tuple[BackboneEntry, ...]:
    """Return the backbones and the checkpoints of all pretrainings, but for those that are listed as they are by default."""
    listed = {_identity(backbone) for backbone in given}
    made = [BackboneEntry(each.name, f"{PRETRAIN}{each.name}", row=each.row, where=each.where) for each in pretrainings]
    return (*given, *(each for each in made if _identity(each) not in listed))


def _identity(backbone: BackboneEntry) -> str:
    return repr(backbone.work())


def _twice(values: Sequence[str]) -> str | None:
    """Return the first value that is there twice, if any."""
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def _check_references(table: Table) -> None:
    """Raise UserError for a name or a backbone that is there twice, for a reference to nothing and for a cycle."""
    starts = {each.name: each.start for each in table.pretrainings}
    unswept = "write {KEY} into name for what is swept"
    _check_once([(each.name, each.where) for each in table.pretrainings], "the name {}", unswept)
    _check_once([(each.name, each.where) for each in table.backbones], "the backbone {}", "give each a name of its own")
    _check_once([(_identity(each), each.where) for each in table.backbones], "the same backbone", "leave one out")
    references = [(each.where, "init", each.start) for each in table.pretrainings]
    references += [(each.where, "spec", each.pretraining) for each in table.backbones]
    for where, key, name in references:
        if name is not None and name not in starts:
            with within(where):
                raise unknown(f"pretraining in {key}", name, starts, f"this file has {', '.join(starts) or 'none'}")
    for pretraining in table.pretrainings:
        path = [pretraining.name]
        while (following := starts[path[-1]]) is not None:
            path.append(following)
            if following in path[:-1]:
                circle = f"pretrainings in a cycle, each starts from the next: {' -> '.join(path)}"
                raise UserError(f"{pretraining.where}: {circle}; take the init of one away")
    known = dict.fromkeys([*(each.name for each in table.backbones), *(each.group for each in table.pretrainings)])
    named = [(each.where, each.backbones) for each in table.evaluations] + [
        (each.where, each.backbones) for each in table.figures
    ]
    for where, names in named:
        for name in names or ():
            if name not in known:
                with within(where):
                    raise unknown("name in backbones", name, known, f"this file has {', '.join(known) or 'none'}")
    _check_once([(each.number, each.where) for each in table.figures], "the figure {}", "give each a number of its own")
    for figure in table.figures:
        _check_shown(table, figure)


def _check_shown(table: Table, figure: FigureEntry) -> None:
    """Raise UserError for a figure without a backbone, and for one of pretrainings that names other backbones."""
    others = [each.name for each in table.backbones_of(figure) if each.pretraining is None]
    if figure.of_pretrainings and figure.backbones and others:
        raise UserError(f"{figure.where}: {others[0]} is not trained here; what it shows comes from a [[pretrain]]")
    if not table.shown(figure):
        needed = "pretrain" if figure.of_pretrainings else "backbone"
        raise UserError(f"{figure.where}: it shows no backbone; it needs a [[{needed}]]")


def _check_once(named: list[tuple[str, str]], what: str, remedy: str) -> None:
    """Raise UserError for the first of (name, where) whose name is there twice."""
    seen: dict[str, str] = {}
    for name, where in named:
        if name in seen:
            both = where if seen[name] == where else f"{seen[name]} and {where}"
            raise UserError(f"{both}: {what.format(repr(name))} is there twice; {remedy}")
        seen[name] = where
