"""Labelled data sets: one file a data set, and `load_dataset` to find them by name.

Names come from the classes of this folder, from installed plug-ins (entry-point group `densebench.datasets`), from `folder:DIR`
(a folder of images and label maps), from `frames:DIR` (a folder of videos) and from a path `./mine.py` that holds a `DATASET`
class.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.errors import UserError, unknown
from densebench.files.atomic import digest
from densebench.user_code import file_code, plugin_code
from densebench.user_errors import guarded

if TYPE_CHECKING:
    from types import ModuleType

    from densebench.datasets.dataset import Dataset

GROUP = "densebench.datasets"
FOLDERS = {"label maps": "folder:DIR", "videos": "frames:DIR"}


def data_root(root: Path | None = None) -> Path:
    """Where the data sets are: `root` if given, else $DENSEBENCH_DATA, else ./data."""
    return root if root is not None else Path(os.environ.get("DENSEBENCH_DATA") or "data")


def load_dataset(name: str, root: Path | None = None) -> Dataset:
    """The data set of a name, a folder or a path `./mine.py`. Reads no image. Raises UserError for what is unknown."""
    if name.startswith("frames:"):
        from densebench.datasets.frames import open_frames

        return open_frames(name)
    if name.startswith("folder:"):
        from densebench.datasets.folder import open_folder

        return open_folder(name)
    if name.endswith(".py"):
        return _own(_made(_class_in_file(name), name, data_root(root)), file_code(Path(name)))
    known = _catalogue()
    if name not in known:
        remedy = f"there are {', '.join([*known, *FOLDERS.values()])} and ./file.py (densebench data ls)"
        raise unknown("data set", name, known, remedy)
    opened = _class_in_module(importlib.import_module(known[name][0]), name)(root=data_root(root))
    points = importlib.metadata.entry_points(group=GROUP, name=name)
    return _own(opened, next((plugin_code(point) for point in points if point.module == known[name][0]), ""))


def _own(dataset: Dataset, code: str) -> Dataset:
    """The data set with the digest of the user's code that it is."""
    object.__setattr__(dataset, "code", code)  # frozen; a user's class may not take such an argument
    return dataset


def titles() -> dict[str, str]:
    """Name -> title of every data set, without importing one."""
    return {name: title for name, (_, title) in _catalogue().items()}


def titles_of(kind: str) -> dict[str, str]:
    """Name -> title of every data set whose labels are of a kind."""
    return {name: title for name, title in titles().items() if load_dataset(name).kind == kind}


def fitting(kind: str) -> str:
    """What may be given where a data set of a kind is needed, in words."""
    return ", ".join([*titles_of(kind), *([FOLDERS[kind]] if kind in FOLDERS else [])]) or "none that is built in"


def present(root: Path | None = None) -> list[str]:
    """The names of the data sets whose evaluation split is there, in whole or in part."""
    found = []
    for name in _catalogue():
        dataset = load_dataset(name, root)
        with suppress(UserError):
            found += [name] if dataset.items(dataset.val_split) else []
    return found


@functools.cache
def built_in() -> dict[str, tuple[str, str]]:
    """Name -> (module, title) of the data sets of this folder; reads the sources without importing them."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and (name := _text(node, "name")):
                found[name] = (f"{__package__}.{path.stem}", _text(node, "title"))
    return found


def _catalogue() -> dict[str, tuple[str, str]]:
    """Name -> (module, title) of every data set: the built-in ones and those of plug-ins."""
    found = dict(built_in())
    for point in importlib.metadata.entry_points(group=GROUP):
        found.setdefault(point.name, (point.module, f"plug-in {point.module}"))
    return found


def _text(node: ast.ClassDef, field: str) -> str:
    for line in node.body:
        if (
            isinstance(line, ast.AnnAssign)
            and ast.unparse(line.target) == field
            and isinstance(line.value, ast.Constant)
            and isinstance(line.value.value, str)
        ):
            return line.value.value
    return ""


def _class_in_module(module: ModuleType, name: str) -> type[Dataset]:
    from densebench.datasets.dataset import Dataset

    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Dataset) and getattr(value, "name", "") == name:
            return value
    raise UserError(f"{module.__name__} holds no data set called {name!r}; give its class the field name = {name!r}")


def _made(kind: type[Dataset], name: str, root: Path) -> Dataset:
    from densebench.datasets.dataset import Dataset

    with guarded(name, "when its data set is made"):
        made = kind(root=root)
    if not isinstance(made, Dataset):
        raise UserError(f"{name} makes a {type(made).__name__}; its DATASET must be a class that derives from Dataset")
    return made


def _class_in_file(name: str) -> type[Dataset]:
    from densebench.catalog import import_file
    from densebench.datasets.dataset import Dataset

    path = Path(name)
    if not path.is_file():
        raise UserError(f"there is no file {name}; give the path of a Python file or a name of `densebench data ls`")
    # by its path too: other processes find the class again by the name of its module
    module = import_file(path, f"densebench_dataset_{path.stem}_{digest(str(path.resolve()), 8)}")
    if "DATASET" in vars(module):
        return module.DATASET
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Dataset) and value.__module__ == module.__name__:
            return value
    raise UserError(f"{name} holds no class that derives from Dataset; add one")
