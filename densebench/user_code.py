"""The user's own code: imported as it is on disk, identified by a digest of all that it runs, its errors reported in one line.

A plug-in is a file `./mine.py`, a folder (a repository of torch hub) or an installed distribution. The digest of a file covers it
and all modules that it imports, at any depth, which are neither Python's nor installed nor densebench's. They are read from the
syntax trees, so that late imports count, and from what appears in `sys.modules`, so that imports of computed names count too.
The paths of the files play no part.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from densebench.errors import Stopped, UserError
from densebench.files.atomic import digest, file_digest
from densebench.torchvision_ops import make_importable

LENGTH = 16  # digits of a digest of code
INSTALLED = frozenset({"site-packages", "dist-packages"})
_executed: dict[str, tuple[Path, str]] = {}
"""Module name -> the file of a module that was imported here, and its digest at that time."""
_imported_by: dict[Path, set[str]] = {}
"""File -> the user's modules that appeared while it was imported."""
_imported_files: set[str] = set()
"""The files that `import_file` has imported."""


def file_code(path: Path) -> str:
    """Return the digest of a Python file and of the user's modules that it imports. Its name and path play no part."""
    files = {**_closure(path), **_appeared(path)}
    parts = [[name, _content(file)] for name, file in sorted(files.items())]
    return digest([_content(path), *parts], LENGTH)


def folder_code(folder: Path, suffixes: tuple[str, ...] = (".py",)) -> str:
    """Return the digest of a folder's files with one of the suffixes, at any depth; not of hidden folders and installed code."""
    contents = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in INSTALLED]
        paths = [Path(parent, name) for name in names if name.endswith(suffixes)]
        contents += [[ascii(path.relative_to(folder).as_posix()), _content(path)] for path in paths]
    return digest(sorted(contents), LENGTH)


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


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file by its path, as the module `name`; the user's modules that it imports are run as they are on disk now.

    A file `__init__.py` is imported as a package. Raises UserError for whatever the file raises.
    """
    make_importable()  # the file may import timm
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; give one that ends in .py")
    for inner in [module for module in sys.modules if module.startswith(f"{name}.")]:
        del sys.modules[inner]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _imported_files.add(str(spec.origin))
    try:
        with importing(path), guarded(path, "on import"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def reduced(value: Any) -> tuple[Any, ...]:
    """Return what `__reduce__` of a dataclass returns, so that other processes can have its values: the fields and the class.

    A class of ./mine.py or ./mine/ is in no module that a worker could import by its name, so its source file goes along.
    """
    kind = type(value)
    root = kind.__module__.partition(".")[0]
    source = getattr(sys.modules[root], "__file__", None)
    source = source if root == kind.__module__ or source in _imported_files else None
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    return _restored, (kind.__module__, source, kind.__qualname__, values)


def _restored(module: str, source: str | None, kind: str, values: dict[str, Any]) -> Any:
    root = module.partition(".")[0]
    if source is not None and root not in sys.modules:
        import_file(Path(source), root)
    return getattr(importlib.import_module(module), kind)(**values)


@contextmanager
def importing(path: Path) -> Iterator[None]:
    """Make the user's modules that the file `path` imports in the block run as they are on disk now.

    Those that this process imported before are forgotten where their files have changed since or may have, or where they come
    from another folder and hide a module beside the file.
    """
    importlib.invalidate_caches()
    _forget_changed(path)
    with noticing(path):
        yield


@contextmanager
def noticing(path: Path) -> Iterator[None]:
    """Record the user's modules that are imported while the block runs code of the file `path`."""
    before, setting = set(sys.modules), sys.dont_write_bytecode
    # Compiled files carry whole seconds: Python would run an old one for a source that was edited within the same second.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = setting
        new = {name: file for name in sys.modules.keys() - before if (file := user_file(name)) is not None}
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
    """Return whether a module in `sys.modules` may differ from its file now, or hides a module of the folder."""
    inside = file.resolve().is_relative_to(folder)
    if not inside and any((folder / file_name).is_file() for file_name in (f"{name}.py", f"{name}/__init__.py")):
        return True
    return _executed[name] != (file, _content(file)) if name in _executed else inside


def _appeared(path: Path) -> dict[str, Path]:
    """Return the user's modules that appeared when a file was imported and are still there, with their files."""
    names = _imported_by.get(path.resolve(), set()) & sys.modules.keys()
    return {name: file for name in names if (file := user_file(name)) is not None and file.resolve() != path.resolve()}


def _closure(path: Path) -> dict[str, Path]:
    """Return name -> file of all of the user's modules that a file imports, at any depth, by the syntax trees."""
    files: dict[str, Path] = {}
    visited: set[str] = set()
    todo = [("", path)]
    while todo:
        module, file = todo.pop()
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        for name in dict.fromkeys(part for imported in _imports(file, package) for part in _prefixes(imported)):
            if name in visited:
                continue
            visited.add(name)
            if (imported_file := user_file(name)) is not None and imported_file.resolve() != path.resolve():
                files[name] = imported_file
                todo.append((name, imported_file))
    return files


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


def user_file(name: str) -> Path | None:
    """Return the file of a module that is the user's own; None where it has none or is Python's, installed or densebench's."""
    file = None if _is_ours(name) or name == "__main__" else find_module(name)[0]
    if file is None or not INSTALLED.isdisjoint(file.parts) or any(file.is_relative_to(folder) for folder in _python_folders()):
        return None
    return file


@functools.cache
def _python_folders() -> tuple[Path, ...]:
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


@contextmanager
def guarded(where: Path | str | None = None, what: str = "") -> Iterator[None]:
    """Turn what the user's code raises in the block, or its sys.exit, into a UserError.

    where: the file or the spec to name in the message; without it, only errors that came through a file that `import_file` has
    imported are turned. what: what fails, such as "in load()". UserErrors, a lack of memory and Ctrl-C pass as they are.
    """
    try:
        yield
    except (UserError, Stopped, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frame = _user_frame(error)
        if type(error).__name__ == "OutOfMemoryError" or (where is None and frame is None):  # torch's; this module imports none
            raise
        file, line = frame or (str(where), None)
        message = " ".join(str(error).split()) or "no message"
        problem = f"calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {message}"
        raise UserError(f"{file}{f', line {line},' if line else ''} fails{f' {what}' if what else ''}: {problem}") from error


def _user_frame(error: BaseException) -> tuple[str, int | None] | None:
    """Return the user's file, and the line in it, that an error came through last; None without any."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(((frame.filename, frame.lineno) for frame in reversed(frames) if frame.filename in _imported_files), None)
