"""The keys of a `[[figure]]`: which of four things it shows, and of which backbones.

    [[figure]]
    number = 4
    title = "Nearest patches"
    backbones = ["DINOv2R ViT-S/14", "NeCo ViT-S/14"]      # names of backbones or pretrainings; without it all of them
    pictures = {protocol = "incontext", dataset = "voc", files = "*-neighbours.png", count = 4}

- `pictures` with `protocol`: what its option `visualise` draws. Also preset, limit and options of the protocol.
- `pictures` with `pretraining`: what a pretraining draws under that name at its last save, such as "matches", of `count` images.
- `curve`: a `column` of a pretraining's log over "epoch" (means) or "step".
- `maps`: what a ViT does inside, on `images` images of a data set: `of` = "similarity" (how similar each patch is to all others,
  after so many blocks: `layers`), "attention" (of query patches in the last block) or "embedding" (t-SNE of the patches, after
  `layers`; without them five from the first to the last).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from densebench.errors import UserError
from densebench.tables import keys
from densebench.tables.entries import EvaluationEntry, FigureEntry, Kind
from densebench.tables.keys import COUNT, NAME, NAMES, TEXT, Key, within
from densebench.tables.known import Known

SHOWS = ("pictures", "curve", "maps")
NUMBER = re.compile(r"[\w.-]+")


def _number(value: Any) -> str:
    if type(value) not in (int, str) or NUMBER.fullmatch(str(value)) is None:
        raise ValueError(value)
    return str(value)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(value)
    return value


def _layers(value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(each) is int and 0 <= each <= 1000 for each in value):
        raise ValueError(value)
    return value


SHOWN = Key(_table, 'keys with values in braces, such as {pretraining = "matches"}')
FIGURE: Mapping[str, Key] = {
    "number": Key(_number, "a number or a text of letters, digits and .-_"), "title": NAME, "backbones": NAMES,
    **dict.fromkeys(SHOWS, SHOWN),
}  # fmt: skip
OF_PROTOCOL: Mapping[str, Key] = {
    "protocol": TEXT, "preset": TEXT, "dataset": TEXT, "limit": COUNT, "processes": COUNT, "files": TEXT, "count": COUNT,
}  # fmt: skip
OF_PRETRAINING: Mapping[str, Key] = {"pretraining": TEXT, "count": COUNT}
CURVE: Mapping[str, Key] = {"column": TEXT, "over": Key(keys.one_of("epoch", "step"), "epoch or step")}
MAPS: Mapping[str, Key] = {
    "of": Key(keys.one_of("similarity", "attention", "embedding"), "similarity, attention or embedding"), "dataset": TEXT,
    "layers": Key(_layers, "a list of numbers of blocks, 0: what goes into the first"), "images": COUNT, "image_size": COUNT,
}  # fmt: skip


def read_figure(where: str, entry: Mapping[str, Any], known: Known) -> FigureEntry:
    """Return a figure, checked but for the names of its backbones. Raises UserError for whatever is wrong."""
    with within(where):
        values = keys.read_keys(entry, FIGURE, ("number",))
        shown = [key for key in SHOWS if key in values]
        if len(shown) != 1:
            given = f"{' and '.join(shown)} are given" if shown else "it shows nothing"
            raise UserError(f"{given}; give one of {', '.join(SHOWS)}")
    about: dict[str, Any] = {name: values[name] for name in ("title", "backbones") if name in values}
    where_shown = f"{where}, {shown[0]}"
    with within(where_shown):
        draws, settings, evaluation = _shown(shown[0], values[shown[0]], known, where_shown)
    return FigureEntry(values["number"], draws, settings, evaluation=evaluation, where=where, **about)


def _shown(shown: str, given: Mapping[str, Any], known: Known, where: str) -> tuple[str, dict[str, Any], EvaluationEntry | None]:
    """Return what kind of thing a figure shows, its settings, and the evaluation that draws it."""
    if shown == "curve":
        return "curve", {"over": "epoch", **keys.read_keys(given, CURVE, ("column",))}, None
    if shown == "maps":
        maps = keys.read_keys(given, MAPS, ("of", "dataset"))
        _check_dataset(maps["dataset"], "maps", "label maps", known)
        return "maps", {"layers": None, "images": 3, "image_size": 224, **maps}, None
    if "pretraining" in given:
        return "pretraining", {"count": 4, **keys.read_keys(given, OF_PRETRAINING, ("pretraining",))}, None
    if "protocol" not in given:
        raise UserError("protocol or pretraining is missing: what draws the pictures")
    return _of_protocol(given, known, where)


def _of_protocol(given: Mapping[str, Any], known: Known, where: str) -> tuple[str, dict[str, Any], EvaluationEntry]:
    protocol, preset = (keys.read_key(key, given[key], OF_PROTOCOL) if key in given else None for key in ("protocol", "preset"))
    kind: Kind = known.kind("protocols", str(protocol), preset)
    if "visualise" not in kind.flags:
        raise UserError(f"protocol = {protocol}: it draws no pictures")
    values = keys.read_entry(given, OF_PROTOCOL, ("dataset",), kind.flags)
    if "visualise" in values["options"]:
        raise UserError("visualise: count says how many pictures there are")
    settings = {"files": values.pop("files", "*.png"), "count": values.pop("count", 4)}
    dataset = values.pop("dataset")
    _check_dataset(dataset, str(protocol), kind.takes, known)
    values["options"]["visualise"] = settings["count"]
    return "protocol", settings, EvaluationEntry(**values, datasets=(dataset,), where=where, kind=kind)


def _check_dataset(name: str, user: str, takes: str, known: Known) -> None:
    known.check_labelled(name)
    known.check_labels(name, user, takes)
