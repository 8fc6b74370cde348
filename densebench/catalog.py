"""The catalogue: the folder is the registry. A file dropped into `evals/` or `pretrain/` is a name on the command line.

Names also come from installed plug-ins (entry-point groups `densebench.evals`, `densebench.pretrain`) and from a path
`./mine.py`. Listing reads source files without importing them, so that it answers at once.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from densebench import options
from densebench.errors import UserError, unknown
from densebench.options import Flag, flags_in_source
from densebench.user_code import file_code, importing, plugin_code
from densebench.user_errors import FILES, guarded

Kind = Literal["protocols", "methods"]
GROUPS: dict[Kind, tuple[str, dict[str, str]]] = {
    "protocols": (
        "densebench.evals",
        {
            "Evaluator": "densebench.evaluation.protocol",
            "Clustered": "densebench.evaluation.option_groups",
            "Supervised": "densebench.evaluation.option_groups",
            "FewShot": "densebench.evaluation.option_groups",
            "SlidingWindow": "densebench.evaluation.option_groups",
        },
    ),
    "methods": (
        "densebench.pretrain",
        {"Pretrainer": "densebench.training.method", "PrototypePretrainer": "densebench.training.method"},
    ),
}
"""Where the names of a kind are, and the classes that mark one with the modules that hold them."""


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue: where it is, its title, its presets and its own flags.

    A name may have several parts, each a class with presets of its own: those that a package imports, in that order.
    """

    name: str
    module: str
    path: Path
    title: str
    base: str
    presets: tuple[str, ...] = ()
    own_flags: list[Flag] = field(default_factory=list, repr=False)
    base_module: str = ""
    others: tuple[Entry, ...] = ()

    @property
    def all_presets(self) -> tuple[str, ...]:
        """The presets of all parts."""
        return (*self.presets, *(preset for other in self.others for preset in other.presets))

    def part(self, preset: str | None) -> Entry:
        """The part that has a preset; the first where none is named or has it."""
        return next((other for other in self.others if preset in other.presets), self)

    def flags(self) -> list[Flag]:
        """The flags of the base class and its own; of one name its own counts."""
        shared = options.flags(getattr(importlib.import_module(self.base_module), self.base))
        return list({flag.name: flag for flag in [*shared, *self.own_flags]}.values())


def entries(kind: Kind) -> dict[str, Entry]:
    """All names of a kind, built-in ones first, each read from its source file."""
    package, bases = GROUPS[kind]
    found: dict[str, Entry] = {}
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.stem):
            parts = [
                entry
                for file in _files(path)
                if (entry := read_entry(file, ".".join((package, *file.relative_to(folder).with_suffix("").parts)), bases))
            ]
            if parts:
                name = path.stem.replace("_", "-")
                found[name] = replace(parts[0], name=name, others=tuple(replace(part, name=name) for part in parts[1:]))
    for point in importlib.metadata.entry_points(group=package):
        module = point.value.partition(":")[0]
        origin = importlib.util.find_spec(module)
        if origin is None or origin.origin is None:
            raise UserError(f"the plug-in {point.name!r} names {module}, which is not installed; reinstall or remove it")
        entry = read_entry(Path(origin.origin), module, bases)
        if entry is not None:
            found.setdefault(point.name, replace(entry, name=point.name))
    return found


def _files(path: Path) -> list[Path]:
    """Return the files that may hold the parts of a name: the file itself, or those that the package takes classes from."""
    if path.suffix == ".py":
        return [path]
    if not (path / "__init__.py").is_file():
        return []
    imports = [node for node in ast.parse((path / "__init__.py").read_bytes()).body if isinstance(node, ast.ImportFrom)]
    return [path / f"{(node.module or '').rpartition('.')[2]}.py" for node in imports if node.module != "__future__"]


def read_entry(path: Path, module: str, bases: dict[str, str]) -> Entry | None:
    """Describe the first class in a file that derives from one of `bases`; None where there is none, as in a shared module.

    Raises UserError for a file that is not Python, or whose options are not written out.
    """
    with guarded(path, "to be read"):
        return _read_entry(path, module, bases)


def _read_entry(path: Path, module: str, bases: dict[str, str]) -> Entry | None:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in tree.body:
        parents = [ast.unparse(parent).split(".")[-1] for parent in node.bases] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.ClassDef) and (base := next((name for name in parents if name in bases), None)):
            title = (ast.get_docstring(tree) or ast.get_docstring(node) or "").partition("\n")[0]
            name = path.stem.replace("_", "-")
            return Entry(name, module, path, title, base, _presets(node), flags_in_source(node), bases[base])
    return None


def _presets(node: ast.ClassDef) -> tuple[str, ...]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "presets" and isinstance(line.value, ast.Dict):
            return tuple(key.value for key in line.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return ()


def find(kind: Kind, name: str) -> Entry:
    """The entry of a name or of a path `./mine.py`. Raises UserError where there is none."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"there is no file {name}; give the path of a Python file or a name of `densebench ls {kind}`")
        entry = read_entry(path, f"densebench_plugin_{path.stem}", GROUPS[kind][1])
        if entry is None:
            raise UserError(f"{name} holds no class that derives from {next(iter(GROUPS[kind][1]))}; add one")
        return entry
    known = entries(kind)
    if name not in known:
        raise unknown(kind.removesuffix("s"), name, known, f"there are {', '.join(known) or 'none'} (densebench ls {kind})")
    return known[name]


def load(kind: Kind, name: str, preset: str | None = None) -> Any:
    """Import the class behind a name, of the part that has the preset."""
    entry = find(kind, name).part(preset)
    bases = GROUPS[kind][1]
    module = import_file(entry.path, entry.module) if name.endswith(".py") else importlib.import_module(entry.module)
    for found in vars(module).values():
        own = inspect.isclass(found) and found.__module__ == module.__name__
        if own and any(parent.__name__ in bases for parent in found.__mro__[1:]):
            return found
    raise UserError(f"{entry.path} holds no class that derives from {next(iter(bases))}; add one")


def code_of(kind: Kind, name: str) -> str:
    """Return the digest of the user's own code behind a name (a file or an installed plug-in); "" where it is built in."""
    if name.endswith(".py"):
        return file_code(Path(name))
    module = find(kind, name).module
    points = importlib.metadata.entry_points(group=GROUPS[kind][0], name=name)
    return next((plugin_code(point) for point in points if point.module == module), "")


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file by its path, under a module name of its own, and what it imports from beside it as it is now.

    Raises UserError for whatever the file raises.
    """
    from densebench.torchvision_ops import make_importable

    make_importable()  # the file may import timm
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    FILES.add(str(spec.origin))
    try:
        with importing(path), guarded(path, "on import"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
