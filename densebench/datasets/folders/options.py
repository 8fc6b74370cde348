"""The options of a folder: `folder:DIR?key=value&key=value`, and the lines of DIR/classes.toml."""

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
    "nested": Key((bool,)),
    "images": Key((str,)),
    "labels": Key((str,)),
    "suffix": Key((str,)),
    "seed": Key((int,)),
    "val": Key((float,)),
}
"""The keys of classes.toml, which `densebench.datasets.folder` explains. Those that are no lists may follow the folder's name."""
WORDS = {"true": True, "false": False}
IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
"""What errors call the type of a value."""


@dataclass(frozen=True)
class FolderOptions:
    """A folder and its options. name: as given. values: key -> value. origin: key -> the file or the name that states it."""

    name: str
    root: Path
    values: Mapping[str, Any]
    origin: Mapping[str, str]

    def where(self, key: str) -> str:
        """Return what states a key, for a message; classes.toml for a key that is not stated."""
        return self.origin.get(key, str(self.root / FILE))

    def get(self, key: str, default: Any) -> Any:
        """Return the value of a key, or `default` where it is not stated."""
        return self.values.get(key, default)

    def example(self, key: str, value: Any) -> str:
        """Return the two ways to state `key = value`, in words for an error message."""
        return f"write {key} = {value} in {self.root / FILE}, or folder:{self.root}?{key}={value}"


def read_options(name: str, kind: str = "folder") -> FolderOptions:
    """Return the options of `folder:DIR?key=value`, or of another kind; those after the name override those of classes.toml.

    Raises UserError where the folder is missing and where a key or a value is wrong.
    """
    root, query = _parted(name.removeprefix(f"{kind}:"))
    if not os.path.isdir(root):  # noqa: PTH112 (Path raises for a name that is too long)
        kind = "is a file, not a folder" if os.path.exists(root) else "does not exist"  # noqa: PTH110
        raise UserError(f"the folder {root} {kind}; give a folder of images and labels")
    written = _written(root / FILE) if (root / FILE).exists() or (root / FILE).is_symlink() else {}
    given = _given(query, name) if query is not None else {}
    origin = {**dict.fromkeys(written, str(root / FILE)), **dict.fromkeys(given, name)}
    options = FolderOptions(name, root, {**written, **given}, origin)
    _check(options)
    return options


def _parted(text: str) -> tuple[Path, str | None]:
    """Return the folder, and what follows "?" (None without it); the name of an existing folder may itself hold a "?"."""
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
    raise UserError(f"{key} in {name} is {text!r}, not {IN_WORDS[KEYS[key].kinds[0]]}; correct it")


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
            raise UserError(f"{key} in {path} is {value!r}, not {IN_WORDS[KEYS[key].kinds[0]]}; correct it")
    return options


def _check(options: FolderOptions) -> None:
    for key in ("classes", "splits"):
        value = options.get(key, ["one"])
        if not value or not all(isinstance(entry, str) for entry in value) or len(set(value)) < len(value):
            raise UserError(f"{key} in {options.where(key)} is {value!r}, not a list of different names; {EXAMPLE}")
    for split in options.get("splits", ()):
        check_name(split, f"splits in {options.where('splits')}")
    for key in ("images", "labels"):
        if key in options.values:
            check_name(options.values[key].rstrip("/"), f"{key} in {options.where(key)}")
    if len(options.get("classes", ())) > IGNORED - 1:
        raise UserError(
            f"{options.where('classes')} lists {len(options.values['classes'])} classes; label maps of 8 bits allow {IGNORED - 1}"
        )
    _check_values(options)
    if not 0 < options.get("val", 0.5) < 1:
        raise UserError(f"val in {options.where('val')} is {options.values['val']:g}; it is a share between 0 and 1, such as 0.2")
    if not 0 <= options.get("seed", 0) < 2**31:
        raise UserError(f"seed in {options.where('seed')} is {options.values['seed']}; give a whole number from 0 to {2**31 - 1}")


def _check_values(options: FolderOptions) -> None:
    void = options.get("ignore_index", IGNORED)
    if isinstance(void, str) and not COLOUR.fullmatch(void):
        raise UserError(
            f"ignore_index in {options.where('ignore_index')} is {void!r}, not a whole number or a "
            'colour such as "#e0e0c0"; correct it'
        )
    if "values" not in options.values:
        return
    values = options.values["values"]
    numbers = all(type(value) is int and 0 <= value <= IGNORED for value in values)
    colours = all(isinstance(value, str) and COLOUR.fullmatch(value) for value in values)
    clash = void in values and "ignore_index" in options.values
    if not values or not (numbers or colours) or len(set(values)) < len(values) or clash:
        raise UserError(
            f"values in {options.where('values')} is {values!r}, not a list of different values from 0 to {IGNORED} or of "
            'different colours such as "#80ff00", void not among them; give one for each class'
        )
    if len(values) != len(options.get("classes", values)):
        raise UserError(
            f"{options.where('values')} lists {len(values)} values and {len(options.values['classes'])} classes; list as many"
        )
    if "reduce_zero_label" in options.values:
        raise UserError(f"{options.where('values')} has values and reduce_zero_label, which exclude one another; keep one")
