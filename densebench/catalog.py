"""The catalogue: the folder is the registry. A file or folder in `evals/` or `pretrain/` is a name on the command line.

Names also come from installed plug-ins (entry points of `densebench.evals`, `densebench.pretrain`) and from paths, `./mine.py`
or `./mine/`. An entry is a class that has presets and derives, at any distance, from Evaluator or Pretrainer. It is described
from its source without an import, and from the class itself where the source does not tell. What cannot be read is reported by
itself and hides nothing else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from densebench import options
from densebench.errors import UserError, unknown
from densebench.flag import Flag
from densebench.source import NotLiteral, Source, SourceClass
from densebench.user_code import file_code, find_module, folder_code, guarded, import_file, plugin_code

Kind = Literal["protocols", "methods"]


class Base(NamedTuple):
    """Where names of a kind come from (`package`, also the entry-point group), and their base class (`name` in `module`)."""

    package: str
    module: str
    name: str


BASES: Mapping[Kind, Base] = {
    "protocols": Base("densebench.evals", "densebench.evaluation.protocol", "Evaluator"),
    "methods": Base("densebench.pretrain", "densebench.training.method", "Pretrainer"),
}


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue: its class, title, presets, options and, of a protocol, the kind of data set that it takes.

    A name may have several parts, each a class with presets of its own, in the order in which a package imports them: this one
    and `others`.
    """

    name: str
    module: str
    path: Path
    class_name: str
    title: str
    presets: tuple[str, ...]
    options: tuple[Flag, ...] = field(default=(), repr=False)
    others: tuple[Entry, ...] = ()
    takes: str = ""
    needs_background: bool = False
    labels_images: bool = False

    @property
    def parts(self) -> tuple[Entry, ...]:
        """All parts, this one first."""
        return (self, *self.others)

    @property
    def all_presets(self) -> tuple[str, ...]:
        """The presets of all parts."""
        return tuple(preset for part in self.parts for preset in part.presets)

    def part(self, preset: str | None) -> Entry:
        """Return the part that has a preset; the first where none is named or has it."""
        return next((part for part in self.parts if preset in part.presets), self)

    def flags(self) -> list[Flag]:
        """Return the options of this part, inherited ones first."""
        return list(self.options)


@dataclass(frozen=True)
class Location:
    """Where the class of a name is: a file or a package, and the name of the class where an entry point gives one."""

    name: str
    module: str
    path: Path
    class_name: str = ""
    point: EntryPoint | None = None
    is_users: bool = False

    def load(self) -> ModuleType:
        """Import the module. Raises UserError for whatever it raises."""
        if self.is_users:
            return import_file(self.path, self.module)
        with guarded(self.path, "on import"):
            return importlib.import_module(self.module)


def entries(kind: Kind) -> dict[str, Entry]:
    """Return all names of a kind that can be read, built-in ones first."""
    return scan(kind)[0]


def scan(kind: Kind) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return all names of a kind, built-in ones first, and for each that cannot be read one line that says why."""
    readable: dict[str, Entry] = {}
    broken: dict[str, str] = {}
    read: dict[tuple[str, str], Any] = {}
    for name, location in _locations(kind).items():
        try:
            readable[name] = _read(kind, location, read)
        except UserError as error:
            broken[name] = str(error)
    return readable, broken


def names(kind: Kind) -> list[str]:
    """Return all names of a kind, whether they can be read or not. Nothing is opened."""
    return list(_locations(kind))


def find(kind: Kind, name: str) -> Entry:
    """Return the entry of a name or of a path `./mine.py`. Raises UserError where there is none or it cannot be read."""
    return _read(kind, _location(kind, name))


def load(kind: Kind, name: str, preset: str | None = None) -> Any:
    """Import and return the class behind a name: the part with the preset. Raises UserError for whatever its file raises."""
    location = _location(kind, name)
    part = _read(kind, location).part(preset)
    module = location.load()
    class_ = getattr(module if part.module == location.module else importlib.import_module(part.module), part.class_name)
    if missing := sorted(getattr(class_, "__abstractmethods__", ())):
        raise UserError(f"{part.path}: {part.class_name} lacks {', '.join(missing)}; write what {BASES[kind].name} asks for")
    return class_


def load_preset(kind: Kind, name: str, preset: str | None) -> tuple[Any, str]:
    """Return what `load` does, and the preset: the first one where None is given. Raises UserError for an unknown one, too."""
    class_ = load(kind, name, preset)
    if preset is not None and preset not in class_.presets:
        check_preset(find(kind, name), name, preset)
    return class_, next(iter(class_.presets)) if preset is None else preset


def check_preset(entry: Entry, name: str, preset: str | None) -> None:
    """Raise UserError for a preset that no part of an entry has; None passes. name: what the user calls the entry."""
    if preset is not None and preset not in entry.all_presets:
        raise unknown("preset", preset, entry.all_presets, f"{name} has {', '.join(entry.all_presets)}")


def name_of(kind: Kind, class_: type) -> str:
    """Return the name of an entry's class: that of the catalogue, else the path of its file, `./mine.py`.

    Raises UserError for a class that is in no file, or that its file does not show as an entry.
    """
    for name, entry in entries(kind).items():
        if any((part.module, part.class_name) == (class_.__module__, class_.__qualname__) for part in entry.parts):
            return name
    file = getattr(sys.modules.get(class_.__module__), "__file__", None)
    if file is None:
        raise UserError(f"the class {class_.__name__} is in no file; save it as ./mine.py, so that its record can name it")
    path = Path(file).resolve()
    name = f"./{path.relative_to(Path.cwd()).as_posix()}" if path.is_relative_to(Path.cwd()) else path.as_posix()
    name = name.removesuffix("__init__.py")
    if all(part.class_name != class_.__qualname__ for part in find(kind, name).parts):
        raise UserError(f"{path} shows no {class_.__name__} with presets at its top level; define it there, under its own name")
    return name


def code_of(kind: Kind, name: str) -> str:
    """Return the digest of the user's own code behind a name (a path or an installed plug-in); "" where it is built in."""
    location = _location(kind, name)
    if location.is_users:
        return folder_code(location.path.parent) if location.path.stem == "__init__" else file_code(location.path)
    return "" if location.point is None else plugin_code(location.point)


def short_name(kind: Kind, name: str) -> str:
    """Return what records and tables call a name: of a path ./mine.py or ./mine/ its stem, "mine".

    A path whose stem another one has by its name keeps its ending, "incontext.py", so that nobody takes it for that one.
    """
    if not is_path(name):
        return name
    path = Path(name).resolve()
    stem = path.stem.replace("_", "-")
    return (f"{stem}.py" if path.suffix else f"{stem}/") if stem in names(kind) else stem


def _location(kind: Kind, name: str) -> Location:
    if is_path(name):
        path = Path(name)
        file = path / "__init__.py" if path.is_dir() else path
        if not file.is_file():
            what = f"{name} holds no __init__.py" if path.is_dir() else f"there is no file {name}"
            raise UserError(f"{what}; give the path of a Python file or a name of `densebench ls {kind}`")
        return Location(path.resolve().stem.replace("_", "-"), f"densebench_plugin_{path.resolve().stem}", file, is_users=True)
    known = _locations(kind)
    if name not in known:
        raise unknown(kind.removesuffix("s"), name, known, f"there are {', '.join(known) or 'none'} (densebench ls {kind})")
    return known[name]


def is_path(name: str) -> bool:
    """Return whether a name is a path, `./mine.py` or `./mine/`."""
    return name.endswith((".py", "/")) or name.startswith((".", "/"))


def _locations(kind: Kind) -> dict[str, Location]:
    """Return where every name is, built-in ones first, in alphabetical order."""
    package = BASES[kind].package
    locations: dict[str, Location] = {}
    for folder in map(Path, find_module(package)[1]):
        for path in sorted(folder.iterdir(), key=lambda path: path.stem):
            file = path / "__init__.py" if path.is_dir() else path
            if path.name.startswith(("_", ".")) or file.suffix != ".py" or not file.is_file():
                continue
            name = path.stem.replace("_", "-")
            locations.setdefault(name, Location(name, f"{package}.{path.stem}", file))
    for point in importlib.metadata.entry_points(group=package):
        source, _ = find_module(point.module)
        locations.setdefault(point.name, Location(point.name, point.module, source or Path(), point.attr, point))
    return locations


def _read(kind: Kind, location: Location, read: dict[tuple[str, str], Any] | None = None) -> Entry:
    """Return the entry of a name, read from its source, or from the imported classes where the source is not literal.

    Raises UserError for a file that cannot be read or imported, or that holds no entry.
    """
    if location.point is not None and not location.path.suffix:
        raise UserError(f"the plug-in {location.name!r} names {location.module}, which is not installed; reinstall or remove it")
    with guarded(location.path, "to be read"):
        parts = _from_source(kind, location, {} if read is None else read)
    parts = parts or _from_classes(kind, location)
    presets = [preset for part in parts for preset in part.presets]
    if not presets:
        raise UserError(f"{location.path} holds no class with presets that derives from {BASES[kind].name}; add one")
    if twice := next((preset for preset in presets if presets.count(preset) > 1), None):
        both = " and ".join(part.class_name for part in parts if twice in part.presets)
        raise UserError(f"{location.path}: {both} both have the preset {twice}; begin the name of a shared base with _")
    return replace(parts[0], others=tuple(parts[1:]))


def _from_source(kind: Kind, location: Location, read: dict[tuple[str, str], Any]) -> list[Entry]:
    """Return the parts of a name, read from its syntax tree; an empty list where it is not literal."""
    source, base = Source(location.module, location.path, read), BASES[kind]
    try:
        classes = [source.resolve(location.module, location.class_name.split("."))] if location.class_name else source.classes()
        return [
            _from_node(location, source, each, presets)
            for each in classes
            if each is not None and each.derives_from(base.module, base.name) and (presets := each.presets())
        ]
    except NotLiteral:
        return []


def _from_node(location: Location, source: Source, node: SourceClass, presets: tuple[str, ...]) -> Entry:
    path, flags = source.file(node.module) or location.path, tuple(node.flags.values())
    return Entry(
        location.name, node.module, path, node.node.name, source.title(node), presets, flags,
        takes=node.text("takes"), needs_background=node.text("needs_background") == "True",
        labels_images=node.text("labels_images") == "True",
    )  # fmt: skip


def _from_classes(kind: Kind, location: Location) -> list[Entry]:
    """Return the parts of a name by importing it."""
    module = location.load()
    base: type = getattr(importlib.import_module(BASES[kind].module), BASES[kind].name)
    if location.class_name:
        with guarded(location.path, "on import"):
            classes = [getattr(module, location.class_name)]
    else:
        inside = {name: value for name, value in vars(module).items() if not name.startswith("_") and inspect.isclass(value)}
        classes = [value for value in inside.values() if f"{value.__module__}.".startswith(f"{module.__name__}.")]
    return [
        described(location, each)
        for each in dict.fromkeys(classes)
        if inspect.isclass(each) and issubclass(each, base) and each is not base and getattr(each, "presets", None)
    ]


def described(location: Location, kind: type) -> Entry:
    """Return the entry of a class. Raises UserError for malformed options or presets."""
    module = sys.modules[kind.__module__]
    path = Path(module.__file__ or location.path)
    if getattr(module, kind.__name__, None) is not kind:
        raise UserError(f"{path}: the class {kind.__name__} is bound to another name; give it its own")
    presets = kind.presets  # type: ignore[attr-defined]
    if not isinstance(presets, Mapping) or not all(isinstance(name, str) for name in presets):
        raise UserError(f"{path}: the presets of {kind.__name__} are no dictionary with texts as keys; write names and settings")
    with guarded(path, "to be read"):
        try:
            flags = tuple(options.flags(kind))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    own_doc = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else kind.__doc__ or ""
    title = inspect.cleandoc(module.__doc__ or own_doc).partition("\n")[0]
    return Entry(
        location.name, kind.__module__, path, kind.__name__, title, tuple(presets), flags,
        takes=str(getattr(kind, "takes", "")), needs_background=bool(getattr(kind, "needs_background", False)),
        labels_images=bool(getattr(kind, "labels_images", False)),
    )  # fmt: skip
