"""The entries of a table file, checked: backbones, pretrainings, evaluations and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.flag import Flag
from densebench.user_code import file_code

READING: Mapping[str, Any] = {
    "layer": "last", "pos_embed": "auto", "role": "teacher", "seed": 0, "mean": None, "std": None,
    "debias": None, "upsample": None,
}  # fmt: skip
"""How a backbone is read where the table does not say."""
LATER = ("debias", "upsample")
"""What tables did not know at first: where they do not say it, it is no part of what identifies their work."""
PRETRAIN = "pretrain:"
"""How a spec begins that means the checkpoint of a pretraining of the same file."""
Row = Mapping[str, str] | list[Mapping[str, str]]
"""A row of a published table, or several: columns of published.csv with their texts; `setting` has what no protocol sets."""


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone: a spec with its weights, and how its features are read.

    spec: a form of `densebench ls backbones`, or pretrain:NAME. weights: a file, relative to the folder of the weights. url,
    sha256: where this file comes from and what it holds. row: columns of published.csv by which its published numbers are found.
    where: the entry of the file, for messages.
    """

    name: str
    spec: str
    weights: str | None = None
    url: str | None = None
    sha256: str | None = None
    layer: str = "last"
    pos_embed: str = "auto"
    role: str = "teacher"
    seed: int = 0
    mean: str | None = None
    std: str | None = None
    debias: int | None = None
    upsample: str | None = None
    row: Row = field(default_factory=dict)
    where: str = ""

    @property
    def pretraining(self) -> str | None:
        """The name of the pretraining whose checkpoint it is; None for any other backbone."""
        return self.spec.removeprefix(PRETRAIN) if self.spec.startswith(PRETRAIN) else None

    def work(self) -> dict[str, Any]:
        """Return what decides its features, as JSON values; for a pretraining's checkpoint, its name and how it is read."""
        reading = {key: value for key in READING if (value := getattr(self, key)) is not None or key not in LATER}
        file = {"weights": self.weights, "sha256": self.sha256}
        upsampler = (self.upsample or "").rpartition(":")[0] or self.upsample or ""
        own = {"upsampler": code} if (code := _own_code(upsampler)) else {}
        return {"spec": self.spec, **file, **reading, **_own_code(self.spec), **own}


@dataclass(frozen=True)
class Kind:
    """A method or a protocol: its options by name, the kind of labels that it takes, and the digest of the user's own code.

    needs_background: whether label maps must have a background class.
    """

    flags: Mapping[str, Flag]
    takes: str = ""
    needs_background: bool = False
    code: str = ""

    def work(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those options that may change a number, and the digest of the user's code, as JSON values."""
        chosen = {name: value for name, value in options.items() if self.flags[name].kind != "runtime"}
        return {"options": chosen, **({"code": self.code} if self.code else {})}


@dataclass(frozen=True)
class PretrainEntry:
    """One pretraining: of an entry with a sweep, one point of its grid.

    init: a spec, or pretrain:NAME. options: those of the method, as JSON values. swept: the values of this point of the sweep.
    group: the name as the file has it, which stands for all points of the sweep.
    """

    name: str
    method: str
    data: tuple[str, ...]
    preset: str | None = None
    variant: str | None = None
    init: str | None = None
    weights: str | None = None
    url: str | None = None
    sha256: str | None = None
    seed: int = 0
    limit: int | None = None
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    swept: Mapping[str, Any] = field(default_factory=dict)
    row: Row = field(default_factory=dict)
    group: str = ""
    where: str = ""
    kind: Kind = field(kw_only=True, repr=False)

    @property
    def start(self) -> str | None:
        """The name of the pretraining that it starts from; None where it starts from anything else."""
        return self.init.removeprefix(PRETRAIN) if self.init is not None and self.init.startswith(PRETRAIN) else None

    def work(self) -> dict[str, Any]:
        """Return what decides its checkpoint, as JSON values; `init` as the file has it."""
        about = {"method": self.method, "preset": self.preset, "variant": self.variant or "official", "seed": self.seed}
        start = {"init": self.init, "weights": self.weights, "sha256": self.sha256}
        data = {"data": [{"name": name, **_own_code(name)} for name in self.data], "limit": self.limit}
        return {**about, **start, **data, **self.kind.work(self.options)}


@dataclass(frozen=True)
class EvaluationEntry:
    """A protocol on data sets, for some backbones or for all of them. options: those of the protocol, as JSON values."""

    protocol: str
    datasets: tuple[str, ...]
    preset: str | None = None
    backbones: tuple[str, ...] | None = None
    limit: int | None = None
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    kind: Kind = field(kw_only=True, repr=False)

    @property
    def title(self) -> str:
        """The protocol with its preset, such as incontext/neco."""
        return self.protocol if self.preset is None else f"{self.protocol}/{self.preset}"

    def work(self, dataset: str) -> dict[str, Any]:
        """Return what decides its scores of one backbone on one data set, besides the backbone, as JSON values."""
        data = {"dataset": dataset, **_own_code(dataset), "limit": self.limit}
        about = {"protocol": self.protocol, "preset": self.preset, **data}
        return {**about, **self.kind.work(self.options)}


@dataclass(frozen=True)
class FigureEntry:
    """A figure that a paper shows, drawn anew on one sheet; see `figure_keys`.

    draws: what it shows: protocol or pretraining (their pictures), curve or maps. settings: how, as JSON values. backbones: names
    as in an evaluation. evaluation: what draws the pictures of a protocol, on one data set.
    """

    number: str
    draws: str
    settings: Mapping[str, Any]
    title: str = ""
    backbones: tuple[str, ...] | None = None
    evaluation: EvaluationEntry | None = None
    where: str = ""

    @property
    def of_pretrainings(self) -> bool:
        """Whether it is made from the run folders of pretrainings."""
        return self.draws in ("pretraining", "curve")


@dataclass(frozen=True)
class MissingEntry:
    """Published numbers that nothing in the file measures: those of the rows that have these columns, and a sentence why."""

    row: Row
    why: str
    where: str = ""

    def __str__(self) -> str:
        rows = self.row if isinstance(self.row, list) else [self.row]
        return f"nothing here measures {' or '.join(', '.join(row.values()) for row in rows) or 'the others'}: {self.why}"


@dataclass(frozen=True)
class Table:
    """A table file, read and checked; the checkpoint of every pretraining is among the backbones.

    name: that of a shipped table, or the stem of the file. published: the paper and its table, such as neco:8. rehearsal: what
    the caller changed, as texts by key; a table without changes is none.
    """

    name: str
    title: str = ""
    published: str | None = None
    backbones: tuple[BackboneEntry, ...] = ()
    pretrainings: tuple[PretrainEntry, ...] = ()
    evaluations: tuple[EvaluationEntry, ...] = ()
    figures: tuple[FigureEntry, ...] = ()
    missing: tuple[MissingEntry, ...] = ()
    rehearsal: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None

    @property
    def rows(self) -> dict[str, Row]:
        """By the name of a backbone, the columns and values of its rows of published.csv; only where it names any."""
        return {backbone.name: backbone.row for backbone in self.backbones if backbone.row}

    def backbones_of(self, entry: EvaluationEntry | FigureEntry) -> list[BackboneEntry]:
        """Return the backbones that an evaluation scores or a figure shows, in the order of the file."""
        if entry.backbones is None:
            return list(self.backbones)
        groups, named = {entry.name: entry.group for entry in self.pretrainings}, {*entry.backbones}
        chosen = [each.name in named or (each.name == each.pretraining and groups[each.name] in named) for each in self.backbones]
        return [each for each, wanted in zip(self.backbones, chosen, strict=True) if wanted]

    def shown(self, figure: FigureEntry) -> list[BackboneEntry]:
        """Return the backbones that a figure shows; where it shows pretrainings, each of these once."""
        chosen = self.backbones_of(figure)
        if figure.of_pretrainings:
            trained = [each for each in chosen if each.pretraining is not None]
            first = {each.pretraining: each for each in reversed(trained)}
            chosen = [each for each in trained if first[each.pretraining] is each]
        return chosen


def _own_code(name: str) -> dict[str, str]:
    """Return the digest of the Python file that a spec or the name of a data set is; nothing for any other."""
    return {"code": file_code(Path(name))} if name.endswith(".py") and Path(name).is_file() else {}
