"""run.json: what was requested of a run. It is read to resume the run, but nothing that it names may run code.

A run folder may come from somebody else. Names of built-in data sets, folders, checkpoints and timm's architectures are taken
from its `run.json`. A Python file, a hub repository, a transformers model and an installed plug-in are loaded only where the
user names them on the command line.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from densebench import options
from densebench.backbones.checkpoint import read_checkpoint
from densebench.console import warn
from densebench.datasets.catalog import GROUP, built_in
from densebench.errors import UserError
from densebench.files.atomic import write_text
from densebench.files.stored_json import Count, Integer, ShapeError, Text, Word, check, load
from densebench.training.method import Pretrainer

SCHEMA = 1
RUNS = Path("runs")
RUN = "run.json"
INERT = ("folder", "frames", "ckpt", "timm", "random", "pixels")
"""Kinds of spec that are loaded by reading files, without running code from them."""


@with_config(ConfigDict(extra="allow"))
class RunData(TypedDict):
    """The images that a run is trained on."""

    specs: list[Word]
    root: Word | None
    limit: Count | None
    name: Text
    images: Count
    digest: Word


@with_config(ConfigDict(extra="allow"))
class RunFile(TypedDict):
    """The content of `run.json`. Further keys are allowed."""

    schema: Count
    method: Word
    preset: Word
    variant: Word
    init: Word | None
    weights: Word | None
    seed: Integer
    settings: dict[Text, Any]
    runtime: dict[Text, Any]
    data: RunData


SHAPE = TypeAdapter(RunFile)


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json`."""
    write_text(folder / RUN, json.dumps(run, indent=1) + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json`, as in `RunFile`. Raises UserError where it is missing, broken or of another schema."""
    try:
        stored: dict[str, Any] = load(folder / RUN)
        schema = stored.get("schema") if isinstance(stored, dict) else None
        if type(schema) is int and schema != SCHEMA:
            raise UserError(f"{folder}/{RUN} has schema {schema}, this version reads {SCHEMA}; start a new --output")
        if isinstance(stored, dict) and "means" in stored:  # the name of runtime options in earlier versions
            stored.setdefault("runtime", stored.pop("means"))
        check(stored, SHAPE)
    except ShapeError as error:
        what = f"--resume: {folder} holds no run ({folder / RUN} {error})"
        raise UserError(f"{what}; give the --output of one, or leave --resume out") from error
    return stored


def newest_run(method: str) -> Path:
    """Return the folder under `runs/` of the method's newest run; one that cannot be read is skipped with a notice.

    Raises UserError where there is none.
    """
    runs = []
    for path in RUNS.glob(f"*/{RUN}"):
        try:
            if read_run(path.parent)["method"] == method:
                runs.append(path)
        except UserError as error:
            warn(f"left out: {error}")
    if not runs:
        raise UserError(f"--resume: there is no run of {method} under {RUNS}; start one without --resume, or give its --output")
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def free_folder(method: str, data: str) -> Path:
    """Return `runs/METHOD-DATA-N` with the first free N."""
    name = Path(method.removesuffix(".py")).resolve().name  # a method may be ./mine.py or ./mine/
    base = f"{name}-{data.replace('+', '-').replace('/', '-')}"
    number = 1
    while (RUNS / f"{base}-{number}" / RUN).exists():
        number += 1
    return RUNS / f"{base}-{number}"


def is_finished(folder: Path) -> bool:
    """Return whether a run is finished, so that its backbone is that of the last step."""
    try:
        return bool(read_checkpoint(folder).get("finished"))
    except UserError:
        return False


def stored_options(kind: type[Pretrainer], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a stored run that the method still has; a resumed run takes them where none are given."""
    known = {flag.name for flag in options.flags(kind)}
    return {
        name: value for name, value in {**stored["settings"], **stored["runtime"]}.items() if name in known and value is not None
    }


def check_same(folder: Path | None, stored: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise UserError naming every setting in which a resumed run would differ from the stored one."""
    codes = {
        "method's": (stored.get("method_code", ""), run["method_code"]),
        "data's": (stored["data"].get("code", ""), run["data"]["code"]),
    }
    for what, (before, after) in codes.items():
        if before != after:
            raise UserError(f"--resume {folder}: the {what} code is not what it was; restore it, or start a new --output")
    before, after = (
        {**facts["settings"], **{name: facts[name] for name in ("method", "preset", "seed", "variant", "init")}}
        | {"data": facts["data"]["digest"]}
        for facts in (stored, run)
    )
    different = [
        f"{name.replace('_', '-')} was {value}, is {after.get(name)}"
        for name, value in before.items()
        if value != after.get(name)
    ]
    if different:
        raise UserError(f"--resume {folder}: {'; '.join(different)}; give the same, or start a new --output")


def check_consent(folder: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UserError where a stored run names something whose loading may run code, unless the user has named it again."""
    named = {key: values for key, values in names_with_code(stored).items() if given.get(key) is None}
    if named:
        names = ", ".join(value for values in named.values() for value in values)
        raise UserError(
            f"{folder / RUN} names {names}; loading that may run code, so a stored file cannot ask for it: "
            f"add {shlex.join(as_flags(named))} to the command"
        )


def resume_command(folder: Path, run: Mapping[str, Any]) -> str:
    """Return the command that resumes a run."""
    again = as_flags(names_with_code(run))
    return shlex.join(["densebench", "pretrain", run["method"], "--output", str(folder), "--resume", *again])


def names_with_code(run: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names in a run's facts whose loading may run code, by option (data, init, probe, ...).

    If one of several data sets may run code, all are returned, since they are given together.
    """
    chosen = {**run.get("settings", {}), **run.get("runtime", {})}
    named = {"data": list(run["data"]["specs"]), "init": [run.get("init")], **{key: [value] for key, value in chosen.items()}}
    return {key: values for key, values in named.items() if any(isinstance(value, str) and runs_code(value) for value in values)}


def runs_code(name: str) -> bool:
    """Return whether loading what a name or spec refers to may run code that is not part of densebench."""
    if name.rstrip("0123456789").removesuffix(":").endswith(".py"):  # a limit may follow a data set: ./mine.py:200
        return True
    kind, colon, _ = name.partition(":")
    if kind in INERT or kind in built_in():
        return False
    groups = (GROUP, "densebench.backbones")
    plugins = {point.name for group in groups for point in importlib.metadata.entry_points(group=group)}
    return bool(colon) or kind in plugins


def as_flags(named: Mapping[str, list[str]]) -> list[str]:
    """Return the words of a command line that give these names as options."""
    return [word for key, values in named.items() for value in values for word in (f"--{key.replace('_', '-')}", value)]
