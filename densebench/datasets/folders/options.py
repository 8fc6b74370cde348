"""What the user says about a folder: `folder:DIR?key=value&key=value`, and the lines of DIR/classes.toml."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.datasets.io.annotations import reading
from densebench.datasets.io.names import check_name
from densebench.datasets.label_maps import IGNORED
from densebench.errors import UserError, unknown
from densebench.files.atomic import check_ordinary

FILE = "classes.toml"
EXAMPLE = 'write for example classes = ["cat", "dog"]'
UNSIGNED = 2**16 - 1
"""What -1 becomes in a label map of 16 bits."""
COLOUR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class Key:
    """One key. kinds: the types that classes.toml may give it. listed: it is a list, so that only classes.toml takes it."""

    kinds: tuple[type, ...]
    listed: bool = False


KEYS = {
    "classes": Key((list,), listed=True),
    "values": Key((list,), listed=True),
    "splits": Key((list,), listed=True),
    "ignore_index": Key((int, str)),
    "reduce_zero_label": Key((bool,)),
    "background": Key((str,)),
    "ignore_background": Key((bool,)),
    "images": Key((str,)),
    "labels": Key((str,)),
    "suffix": Key((str,)),
    "seed": Key((int,)),
    "val": Key((float,)),
}
"""The keys of classes.toml, which `densebench.datasets.folder` explains. Those that are no lists may follow the folder's name."""
WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Told:
    """A folder, and what the user says about it. name: as given. values: key -> value. origin: key -> where that was said."""

    name: str
    root: Path
    values: Mapping[str, Any]
    origin: Mapping[str, str]

    def where(self, key: str) -> str:
        """Return where a key was said, for a message; classes.toml for one that was not."""
        return self.origin.get(key, str(self.root / FILE))

    def get(self, key: str, default: Any) -> Any:
        """Return the value of a key."""
        return self.values.get(key, default)

    def example(self, key: str, value: Any) -> str:
        """Return the two ways to say `key = value`, in words for an error message."""
        return f"write {key} = {value} in {self.root / FILE}, or folder:{self.root}?{key}={value}"


def read_told(name: str) -> Told:
    """Return what the user says about `folder:DIR?key=value`; what follows the name wins over classes.toml.

    Raises UserError where the folder is missing and where a key or a value is wrong.
    """
    root, query = _parted(name.removeprefix("folder:"))
    if not os.path.isdir(root):  # noqa: PTH112 (Path raises for a name that is too long)
        kind = "is a file, not a folder" if os.path.exists(root) else "does not exist"  # noqa: PTH110
        raise UserError(f"the folder {root} {kind}; give a folder of images and label maps")
    written = _written(root / FILE) if (root / FILE).exists() or (root / FILE).is_symlink() else {}
    given = _given(query, name) if query is not None else {}
    origin = {**dict.fromkeys(written, str(root / FILE)), **dict.fromkeys(given, name)}
    told = Told(name, root, {**written, **given}, origin)
    _check(told)
    return told


def _parted(text: str) -> tuple[Path, str | None]:
    """Return the folder and what follows "?"; a folder whose own name holds the "?" is taken whole."""
    folder, mark, query = text.rpartition("?")
    return (Path(folder), query) if mark and not os.path.isdir(text) else (Path(text), None)  # noqa: PTH112


def _given(query: str, name: str) -> dict[str, Any]:
    known = [key for key, about in KEYS.items() if not about.listed]
    given: dict[str, Any] = {}
    for part in query.split("&"):
        key, mark, text = part.partition("=")
        if key in KEYS and KEYS[key].listed:
            raise UserError(f"{key} in {name} is a list; write it in {FILE}")
        if key not in KEYS:
            raise unknown(f"key in {name}:", key, known, f"after ? come {', '.join(known)}, as key=value, joined by &")
        if not mark or key in given:
            raise UserError(
                f"{name} {'gives' if mark else 'names'} {key} {'twice' if mark else 'without a value'}; write {key}=..."
            )
        given[key] = _read_value(key, text, name)
    return given


def _read_value(key: str, text: str, name: str) -> Any:
    for kind in KEYS[key].kinds:
        try:
            reader: Callable[[str], Any] = WORDS.__getitem__ if kind is bool else kind
            return reader(text)
        except (ValueError, KeyError):
            continue
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    raise UserError(f"{key} in {name} is {text!r}, not {kinds[KEYS[key].kinds[0]]}; correct it")


def _written(path: Path) -> dict[str, Any]:
    try:
        with reading(path, f"{EXAMPLE} in it"):
            check_ordinary(path)
            options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); {EXAMPLE}") from error
    for key, value in options.items():
        if key not in KEYS:
            raise unknown(f"key in {path}:", key, KEYS, f"the keys are {', '.join(KEYS)}")
        if type(value) not in KEYS[key].kinds:
            raise UserError(f"{key} in {path} is {value!r}, not a {KEYS[key].kinds[0].__name__}; correct it")
    return options


def _check(told: Told) -> None:
    for key in ("classes", "splits"):
        value = told.get(key, ["one"])
        if not value or not all(isinstance(entry, str) for entry in value) or len(set(value)) < len(value):
            raise UserError(f"{key} in {told.where(key)} is {value!r}, not a list of different names; {EXAMPLE}")
    for split in told.get("splits", ()):
        check_name(split, f"splits in {told.where('splits')}")
    for key in ("images", "labels"):
        if key in told.values:
            check_name(told.values[key].rstrip("/"), f"{key} in {told.where(key)}")
    if len(told.get("classes", ())) > IGNORED - 1:
        raise UserError(
            f"{told.where('classes')} lists {len(told.values['classes'])} classes; label maps of 8 bits allow {IGNORED - 1}"
        )
    _check_values(told)
    if not 0 < told.get("val", 0.5) < 1:
        raise UserError(f"val in {told.where('val')} is {told.values['val']:g}; it is a share between 0 and 1, such as 0.2")
    if not 0 <= told.get("seed", 0) < 2**31:
        raise UserError(f"seed in {told.where('seed')} is {told.values['seed']}; give a whole number from 0 to {2**31 - 1}")


def _check_values(told: Told) -> None:
    void = told.get("ignore_index", IGNORED)
    if isinstance(void, str) and not COLOUR.fullmatch(void):
        raise UserError(
            f'ignore_index in {told.where("ignore_index")} is {void!r}, not a int or a colour such as "#e0e0c0"; correct it'
        )
    if "values" not in told.values:
        return
    values = told.values["values"]
    numbers = all(type(value) is int and 0 <= value <= IGNORED for value in values)
    colours = all(isinstance(value, str) and COLOUR.fullmatch(value) for value in values)
    clash = void in values and "ignore_index" in told.values
    if not values or not (numbers or colours) or len(set(values)) < len(values) or clash:
        raise UserError(
            f"values in {told.where('values')} is {values!r}, not a list of different values from 0 to {IGNORED} or of different "
            'colours such as "#80ff00", void not among them; give one for each class'
        )
    if len(values) != len(told.get("classes", values)):
        raise UserError(
            f"{told.where('values')} lists {len(values)} values and {len(told.values['classes'])} classes; list as many"
        )
    if "reduce_zero_label" in told.values:
        raise UserError(f"{told.where('values')} has values and reduce_zero_label, which exclude one another; keep one")
