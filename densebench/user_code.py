"""The user's own code: imported as it is on disk, and identified by a digest of all that it runs.

A plug-in is a file `./mine.py`, a folder (a repository of torch hub) or an installed distribution. Of a file the digest covers
the file and everything that it imports, at any depth, which is neither Python's nor installed nor densebench's: found in the
syntax trees, so that late imports count too, and by what appears in `sys.modules`, so that imports of computed names count as
well. Where the files lie plays no part.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path

from densebench.files.atomic import digest, file_digest

LENGTH = 16  # digits of a digest of code
INSTALLED = frozenset({"site-packages", "dist-packages"})
_executed: dict[str, tuple[Path, str]] = {}
"""Module name -> the file of a module that was imported here, and its digest at that time."""
_imported_by: dict[Path, set[str]] = {}
"""File -> the user's modules that appeared while it was imported."""


def file_code(path: Path) -> str:
    """Return the digest of a Python file and of the user's modules that it imports. Its name and path play no part."""
    files = {**_closure(path), **_appeared(path)}
    parts = [[name, _content(file)] for name, file in sorted(files.items())]
    return digest([_content(path), *parts], LENGTH)


def folder_code(folder: Path, suffixes: tuple[str, ...] = (".py",)) -> str:
    """Return the digest of a folder's files with one of the suffixes, at any depth; not of hidden folders and installed code."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in INSTALLED]
        paths = [Path(place, name) for name in names if name.endswith(suffixes)]
        found += [[ascii(path.relative_to(folder).as_posix()), _content(path)] for path in paths]
    return digest(sorted(found), LENGTH)


@functools.cache  # an installed module is imported once in a process
def plugin_code(point: EntryPoint) -> str:
    """Return the digest of an installed plug-in: its distribution's version and its package's files. "" for densebench's own."""
    if _is_ours(point.module):
        return ""
    about = [point.dist.name, point.dist.version] if point.dist is not None else []
    file = next((file for name in _prefixes(point.module) if (file := find_module(name)[0]) is not None), None)
    if file is None:
        return digest(about, LENGTH)
    return digest([*about, folder_code(file.parent) if file.stem == "__init__" else file_code(file)], LENGTH)


def class_code(kind: type) -> str:
    """Return the digest of the code of a class that a plug-in defines; "" for densebench's own, and where it has no file."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return "" if _is_ours(kind.__module__) or file is None else file_code(Path(file))


@contextmanager
def importing(path: Path) -> Iterator[None]:
    """Make the user's modules that the file `path` imports in the block run as they are on disk now.

    Those that were imported before in this process are forgotten where their files have changed since, where nobody knows
    whether they have, or where they come from elsewhere and hide one beside the file.
    """
    importlib.invalidate_caches()
    _forget_changed(path)
    with noticing(path):
        yield


@contextmanager
def noticing(path: Path) -> Iterator[None]:
    """Remember the user's modules that the file `path` imports when the block runs more of it."""
    before, setting = set(sys.modules), sys.dont_write_bytecode
    # Compiled files carry whole seconds: Python would run an old one for a source that was edited within the same second.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = setting
        new = {name: file for name in sys.modules.keys() - before if (file := _own_file(name)) is not None}
        _executed.update({name: (file, _content(file)) for name, file in new.items()})
        _imported_by.setdefault(path.resolve(), set()).update(new)


def _forget_changed(path: Path) -> None:
    files = {**_closure(path), **_appeared(path)}
    folder = path.parent.resolve()
    if any(_is_stale(name, file, folder) for name, file in files.items() if name in sys.modules):
        for name in [name for name in sys.modules if not files.keys().isdisjoint(_prefixes(name))]:
            del sys.modules[name]
            _executed.pop(name, None)
        for file in files.values():
            with suppress(OSError):  # a compiled file that was written before the edit, as `noticing` says
                Path(importlib.util.cache_from_source(file)).unlink()


def _is_stale(name: str, file: Path, folder: Path) -> bool:
    """Return whether a module in `sys.modules` may differ from its file as it is now, or hides a module of the folder."""
    inside = file.resolve().is_relative_to(folder)
    if not inside and any((folder / place).is_file() for place in (f"{name}.py", f"{name}/__init__.py")):
        return True
    return _executed[name] != (file, _content(file)) if name in _executed else inside


def _appeared(path: Path) -> dict[str, Path]:
    """Return the user's modules that appeared when a file was imported and are still there, with their files."""
    names = _imported_by.get(path.resolve(), set()) & sys.modules.keys()
    return {name: file for name in names if (file := _own_file(name)) is not None and file.resolve() != path.resolve()}


def _closure(path: Path) -> dict[str, Path]:
    """Return name -> file of all of the user's modules that a file imports, at any depth, by the syntax trees."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    todo = [("", path)]
    while todo:
        module, file = todo.pop()
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        for name in dict.fromkeys(part for imported in _imports(file, package) for part in _prefixes(imported)):
            if name in seen:
                continue
            seen.add(name)
            if (own := _own_file(name)) is not None and own.resolve() != path.resolve():
                found[name] = own
                todo.append((name, own))
    return found


def _imports(file: Path, package: str) -> Iterator[str]:
    """Yield the modules that a file may import (some names may be of things inside one); none if it is not Python."""
    try:
        tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            words = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from (_absolute(word, package) for word in words if isinstance(word, str))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _absolute(name: str, package: str) -> str:
    """Return a module's full name; "" where a relative one leads out of its package."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return ""


def _prefixes(name: str) -> Iterable[str]:
    """Return a, a.b, a.b.c for `a.b.c`: importing the last one runs them all."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1)) if all(parts) else ()


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "densebench"


def _own_file(name: str) -> Path | None:
    """Return the file of a module that is the user's own; None where it has none or is Python's, installed or densebench's."""
    file = None if _is_ours(name) or name == "__main__" else find_module(name)[0]
    if file is None or not INSTALLED.isdisjoint(file.parts) or any(file.is_relative_to(folder) for folder in _pythons_own()):
        return None
    return file


@functools.cache
def _pythons_own() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def _content(path: Path) -> str:
    """Return the digest of a file's bytes; "" where it is gone."""
    try:
        return file_digest(path)
    except OSError:
        return ""


def find_module(name: str) -> tuple[Path | None, list[str]]:
    """Return the file of a module and, for a package, the folders where its modules lie. Imports nothing."""
    if (module := sys.modules.get(name)) is not None:
        file, folders = getattr(module, "__file__", None), list(getattr(module, "__path__", ()))
        return (Path(file) if isinstance(file, str) else None), folders
    parent = name.rpartition(".")[0]
    inside = find_module(parent)[1] if parent else None
    try:  # an editable install has a finder of its own
        spec = next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, inside))), None)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None, []
    return (Path(spec.origin) if spec.has_location and spec.origin else None), list(spec.submodule_search_locations or ())


__all__ = ["class_code", "file_code", "find_module", "folder_code", "importing", "noticing", "plugin_code"]
