"""The catalogue of data sets, and `load_dataset` to open one of them.

A name is the field `name` of a class that derives from `Dataset` in a file of this folder, an installed plug-in (entry-point
group `densebench.datasets`), `folder:DIR` (images and label maps), `frames:DIR` (videos), `boxes:DIR` (images and objects in
boxes), `pictures:DIR` (pictures without labels) or a path `./mine.py`.

Listing reads the files of the folder without importing them, so that it answers at once; a file is imported only where its
text alone does not show the names in it. A file that is broken is reported in one line and left out.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from densebench.console import notice, warn
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest
from densebench.user_code import file_code, guarded, import_file, plugin_code

if TYPE_CHECKING:  # numpy and Pillow are imported when a data set is opened, not to list names
    from densebench.datasets.dataset import Dataset

GROUP = "densebench.datasets"
FOLDERS = {"label maps": "folder:DIR", "videos": "frames:DIR", "boxes": "boxes:DIR", "pictures": "pictures:DIR"}
BASES = ("Dataset", "Boxed", "Videos", "KeypointPairs")
PICTURES = "pictures"
"""The kind of a data set without labels; a protocol that takes it takes data sets of any kind and says what it needs of them."""


def data_root(root: str | Path | None = None) -> Path:
    """Return where the data sets are: `root` if given, else $DENSEBENCH_DATA, else ./data."""
    return Path(root) if root is not None else Path(os.environ.get("DENSEBENCH_DATA") or "data")


def load_dataset(dataset: str | Path | Dataset, root: str | Path | None = None, needs_splits: bool = True) -> Dataset:
    """Open a data set by its name, its folder or its file; a `Dataset` is returned as it is.

    A path, and a text that is no known name but an existing folder, is `folder:DIR`, or `frames:DIR` where it holds videos. No
    image is read, and label maps only in a folder without classes.toml, to find out their values. needs_splits:
    whether a folder with too few images for a training and an evaluation split is an error; if not, they are one split, "all".
    Raises UserError for a name
    that is unknown and for anything else, such as a list.
    """
    name = _name_of(dataset)
    if not isinstance(name, str):
        return name
    if name.startswith("frames:"):
        from densebench.datasets.frames import open_frames

        return open_frames(name)
    if name.startswith("boxes:"):
        from densebench.datasets.folders.boxes import open_boxes

        return open_boxes(name)
    if name.startswith("pictures:"):
        from densebench.datasets.pictures import open_folder_of_pictures

        return open_folder_of_pictures(name)
    if name.startswith("folder:"):
        from densebench.datasets.folders.opening import open_folder

        return open_folder(name, needs_splits)
    if name.endswith(".py"):
        return _with_code(_open(_class_in_file(name), name, root), file_code(Path(name)))
    known = _modules()
    if name not in known:
        remedy = f"there are {', '.join([*known, *FOLDERS.values()])} and ./file.py (densebench data ls)"
        raise unknown("data set", name, known, remedy)
    module = known[name][0]
    with guarded(name, "on import"):
        imported = importlib.import_module(module)
    if name not in (classes := _classes(imported)):
        raise UserError(f"{module} holds no data set called {name!r}; give its class the field name = {name!r}")
    points = importlib.metadata.entry_points(group=GROUP, name=name)
    code = next((plugin_code(point) for point in points if point.module == module), "")
    return _with_code(_open(classes[name], name, root), code)


def _name_of(dataset: str | Path | Dataset) -> str | Dataset:
    """Return the name of what is to be opened, a folder's with its kind; a `Dataset` itself."""
    if isinstance(dataset, Path):
        return str(dataset) if dataset.suffix == ".py" else _folder_name(str(dataset))
    if isinstance(dataset, str):
        if dataset.startswith(("folder:", "frames:", "boxes:", "pictures:")) or dataset.endswith(".py") or dataset in _modules():
            return dataset
        is_folder = os.path.isdir(dataset) or os.path.isdir(dataset.rpartition("?")[0])  # noqa: PTH112 (Path raises for a name that is too long)
        return _folder_name(dataset) if is_folder else dataset

    from densebench.datasets.dataset import Dataset

    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, list | tuple | set):
        raise UserError(f"load_dataset opens one data set, not a list of {len(dataset)}; call it for each")
    raise UserError(
        f"a data set is a name, the path of a folder or of a Python file, or a Dataset, not {type(dataset).__name__}; "
        "`densebench data ls` lists the names"
    )


def _folder_name(text: str) -> str:
    """Return `folder:DIR`, or `frames:DIR` where the folder holds videos."""
    from densebench.datasets.frames import holds_videos

    text = text.rstrip("/") or text
    if not holds_videos(Path(text)):
        return f"folder:{text}"
    notice(f"{text} holds videos: it is opened as frames:{text}")
    return f"frames:{text}"


def titles() -> dict[str, str]:
    """Return name -> title of every data set."""
    return {name: title for name, (_, title) in _modules().items()}


def fits(kind: str, takes: str) -> bool:
    """Return whether a protocol that takes data sets of the kind `takes` takes one of `kind`; pictures are in all of them."""
    return takes in (kind, PICTURES)


def titles_of(kind: str) -> dict[str, str]:
    """Return name -> title of every data set whose labels are of a kind."""
    known = titles()
    return {name: known[name] for name, dataset in every_dataset() if fits(dataset.kind, kind)}


def fitting(kind: str) -> str:
    """Return the names of the data sets of a kind, in words for an error message."""
    return ", ".join([*titles_of(kind), *([FOLDERS[kind]] if kind in FOLDERS else [])]) or "none that is built in"


def every_dataset(root: str | Path | None = None) -> Iterator[tuple[str, Dataset]]:
    """Yield the name of every data set and the data set; one that cannot be opened is reported in one line and left out."""
    for name in _modules():
        try:
            yield name, load_dataset(name, root)
        except UserError as error:
            warn(f"the data set {name} is left out: {error}")


def present(root: str | Path | None = None) -> list[str]:
    """Return the names of the data sets whose evaluation split is there, in whole or in part."""
    return [name for name, dataset in every_dataset(root) if dataset.has(dataset.val_split)]


@functools.cache
def built_in() -> dict[str, tuple[str, str]]:
    """Return name -> (module, title) of the data sets in the files of this folder."""
    names: dict[str, tuple[str, str]] = {}
    folders = importlib.import_module(GROUP).__path__
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.py"))):
        module = f"{GROUP}.{path.stem}"
        try:
            with guarded(path, "to be read"):
                classes = _literal_classes(ast.parse(path.read_bytes(), filename=str(path)))
                if classes is None:
                    imported = _classes(importlib.import_module(module))
                    classes = {name: str(getattr(kind, "title", "")) for name, kind in imported.items()}
        except UserError as error:
            warn(f"{path.name} is left out: {error}")
            continue
        names.update({name: (module, title) for name, title in classes.items()})
    return names


def _modules() -> dict[str, tuple[str, str]]:
    """Return name -> (module, title) of every data set: the built-in ones, then those of plug-ins."""
    points = importlib.metadata.entry_points(group=GROUP)
    plugins = {point.name: (point.module, f"plug-in {point.module}") for point in points}
    return built_in() | {name: plugin for name, plugin in plugins.items() if name not in built_in()}


def _literal_classes(tree: ast.Module) -> dict[str, str] | None:
    """Return name -> title of the data sets in a file whose names are written out; None where only an import can show them.

    A class without a name of its own is a base of others. One with a name counts if it derives from one of BASES or from a class
    before it that counts or that has no name; for any other base the file has to be imported.
    """
    names: dict[str, str] = {}
    bases = set(BASES)
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        parents = [ast.unparse(parent).rpartition(".")[2] for parent in node.bases]
        fields = _fields(node)
        if not bases.isdisjoint(parents):
            bases.add(node.name)
        elif parents and "name" in fields:
            return None
        else:
            continue
        if "name" not in fields:
            continue
        name, title = fields["name"], fields.get("title", "")
        if name is None or title is None:
            return None
        names[name] = title
    return names


def _fields(node: ast.ClassDef) -> dict[str, str | None]:
    """Return the fields to which a class gives a value: the text, or None where it is no literal text."""
    fields: dict[str, str | None] = {}
    for line in node.body:
        targets = [line.target] if isinstance(line, ast.AnnAssign) else line.targets if isinstance(line, ast.Assign) else []
        value = line.value if isinstance(line, ast.AnnAssign | ast.Assign) else None
        if value is not None:
            text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
            fields |= {target.id: text for target in targets if isinstance(target, ast.Name)}
    return fields


def _classes(module: ModuleType) -> dict[str, type[Dataset]]:
    """Return name -> class of the data sets that a module defines, then of those that it imports."""
    from densebench.datasets.dataset import Dataset

    kinds = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Dataset)]
    kinds.sort(key=lambda kind: kind.__module__ == module.__name__)  # where two have one name, the later one wins
    return {kind.name: kind for kind in kinds if isinstance(kind.name, str) and kind.name}


def _class_in_file(name: str) -> type[Dataset]:
    """Return DATASET of a file, or else its first class that derives from `Dataset`."""
    from densebench.datasets.dataset import Dataset

    path = Path(name)
    if not path.is_file():
        raise UserError(f"there is no file {name}; give the path of a Python file or a name of `densebench data ls`")
    # the digest of the path makes the name unique: other processes find the class again by the name of its module
    module = import_file(path, f"densebench_dataset_{path.stem}_{digest(str(path.resolve()), 8)}")
    if "DATASET" in vars(module):
        return module.DATASET
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Dataset) and value.__module__ == module.__name__:
            return value
    raise UserError(f"{name} holds no class that derives from Dataset; add one")


def _open(kind: type[Dataset], name: str, root: str | Path | None) -> Dataset:
    from densebench.datasets.dataset import Dataset

    with guarded(name, "when its data set is made"):
        dataset = kind(root=data_root(root))
    if not isinstance(dataset, Dataset):
        raise UserError(f"{name} makes a {type(dataset).__name__}; its DATASET must be a class that derives from Dataset")
    return dataset


def _with_code(dataset: Dataset, code: str) -> Dataset:
    """Set the digest of the user's code that defines a data set, and return the data set."""
    object.__setattr__(dataset, "code", code)  # frozen; a user's class may not take such an argument
    return dataset
