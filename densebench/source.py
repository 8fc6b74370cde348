"""Classes read from source without importing a module: their bases at any distance, presets and options.

So `densebench ls` and `--help` answer at once. Only what is written out is read: a class from a chain of imports, a dict of
presets, literal defaults. For anything else NotLiteral is raised, and the module has to be imported.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench import options
from densebench.flag import Flag, plain_annotation
from densebench.user_code import find_module

LIBRARIES = sys.stdlib_module_names | {"numpy", "pydantic", "timm", "torch", "torchvision", "typing_extensions"}
"""Libraries that define no base of a protocol or a method; their files are not read."""

OTHER, UNKNOWN = object(), object()
"""Marks for a name that is a function, and for one that may or may not be a class."""


class NotLiteral(Exception):  # noqa: N818
    """Something is not written out in the source: only importing it tells what it is."""


@dataclass(frozen=True)
class SourceClass:
    """A class in a file, with those of its bases that are not a library's."""

    module: str
    node: ast.ClassDef
    bases: tuple[SourceClass, ...]
    source: Source

    @functools.cached_property
    def mro(self) -> tuple[SourceClass, ...]:
        """The class and its bases in Python's method resolution order."""

        def shape(node: SourceClass) -> Any:
            return shapes.setdefault(id(node), type(node.node.name, tuple(map(shape, node.bases)), {"source": node}))

        shapes: dict[int, type] = {}
        try:
            return tuple(vars(kind)["source"] for kind in shape(self).__mro__[:-1])
        except TypeError as error:  # Python would refuse the class too, and says why
            raise NotLiteral(self.node.name) from error

    def derives_from(self, module: str, name: str) -> bool:
        """Return whether the class `name` of a module is among the bases, at any distance."""
        return any((base.module, base.node.name) == (module, name) for base in self.mro[1:])

    def presets(self) -> tuple[str, ...] | None:
        """Return the names of the presets, its own or inherited; None where there are none."""
        return next((names for kind in self.mro if (names := _presets(kind.node)) is not None), None)

    def text(self, name: str) -> str:
        """Return a text that the class or a base gives a class variable; "" where there is none that is written out."""
        lines = (line for kind in self.mro for line in kind.node.body if isinstance(line, ast.AnnAssign))
        found = (line.value for line in lines if ast.unparse(line.target) == name and line.value is not None)
        return next((str(value.value) for value in found if isinstance(value, ast.Constant)), "")

    @functools.cached_property
    def flags(self) -> dict[str, Flag]:
        """The options by name, inherited ones first, in the order of a dataclass's fields."""
        flags: dict[str, Flag] = {}
        for base in reversed(self.mro[1:]):
            flags |= base.flags
        return flags | {flag.name: flag for flag in flags_in_source(self.node, self._constant)}

    def _constant(self, name: str) -> ast.expr:
        return self.source.constant(self.module, name)


@dataclass
class Source:
    """Reads classes from the file of one module, of its package, and of the modules that they import from."""

    module: str
    path: Path
    read: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What was read before: classes by module and name, names by module. Sources of one catalogue share it."""

    def title(self, kind: SourceClass) -> str:
        """Return the first line of the docstring of a class's module, else of the class."""
        text = ast.get_docstring(self._tree(kind.module)) or ast.get_docstring(kind.node) or ""
        return text.partition("\n")[0]

    def classes(self) -> list[SourceClass]:
        """Return the classes that the module defines, and for a package those that it imports from its own modules, in order."""
        classes = []
        for name, bound in self._names(self.module).items():
            if name == "*":
                raise NotLiteral(f"{self.module} imports *")
            inside = isinstance(bound, tuple) and len(bound) > 1 and f"{bound[0]}.".startswith(f"{self.module}.")
            if not name.startswith("_") and (inside or isinstance(bound, ast.ClassDef)):
                classes.append(self.resolve(self.module, [name]))
        inside_only = [kind for kind in classes if kind and f"{kind.module}.".startswith(f"{self.module}.")]
        return list({id(kind): kind for kind in inside_only}.values())

    def resolve(self, module: str, names: list[str], seen: frozenset[tuple[str, str]] = frozenset()) -> SourceClass | None:
        """Return the class behind a dotted name in a module; None for what is a library's, or no class.

        Raises NotLiteral where the source does not tell.
        """
        if module.partition(".")[0] in LIBRARIES or not names:
            return None
        name, *rest = names
        if (module, name) in seen:
            raise NotLiteral(f"{module}.{name}")
        seen |= {(module, name)}
        bound = self._names(module).get(name)
        if isinstance(bound, ast.ClassDef) and not rest:
            return self._class(module, bound, seen)
        if isinstance(bound, tuple):
            return self.resolve(bound[0], [*bound[1:], *rest], seen)
        if bound is OTHER or isinstance(bound, ast.expr):
            return None
        if bound is UNKNOWN or self.file(f"{module}.{name}") is None:
            raise NotLiteral(f"{module}.{name}")
        return self.resolve(f"{module}.{name}", rest, seen)

    def constant(self, module: str, name: str) -> ast.expr:
        """Return what a name in a module is bound to, where it is written out there or where it is imported from."""
        for _ in range(9):  # imports of imports
            bound = self._names(module).get(name)
            if isinstance(bound, ast.expr):
                return bound
            if not isinstance(bound, tuple) or len(bound) < 2 or bound[0].partition(".")[0] in LIBRARIES:
                break
            module, name = bound
        raise NotLiteral(f"{module}.{name}")

    def _class(self, module: str, node: ast.ClassDef, seen: frozenset[tuple[str, str]]) -> SourceClass:
        if (module, node.name) not in self.read:
            bases = []
            for base in node.bases:
                dotted = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)  # Generic[T] is Generic
                if not all(part.isidentifier() for part in dotted.split(".")):
                    raise NotLiteral(dotted)
                if not hasattr(builtins, dotted):
                    bases.append(self.resolve(module, dotted.split("."), seen))
            self.read[module, node.name] = SourceClass(module, node, tuple(base for base in bases if base), self)
        return self.read[module, node.name]

    def _names(self, module: str) -> dict[str, Any]:
        """Return what the names of a module are bound to: a class, a value, a module and a name in it, OTHER or UNKNOWN."""
        if (module, "") not in self.read:
            file = self.file(module)
            package = module if file is not None and file.stem == "__init__" else module.rpartition(".")[0]
            names: dict[str, Any] = {}
            for node in self._tree(module).body:
                names |= _bound(node, package)
            self.read[module, ""] = names
        names_read: dict[str, Any] = self.read[module, ""]
        return names_read

    def _tree(self, module: str) -> ast.Module:
        file = self.file(module)
        if file is None or file.suffix != ".py":
            raise NotLiteral(module)
        return _parsed(file, file.stat().st_mtime_ns)

    def file(self, module: str) -> Path | None:
        """Return the file of a module; None where it has none."""
        if module == self.module:
            return self.path
        if module.startswith(f"{self.module}."):
            file = self.path.parent.joinpath(*module.removeprefix(f"{self.module}.").split("."))
            return next((path for path in (file / "__init__.py", file.with_suffix(".py")) if path.is_file()), None)
        return find_module(module)[0]


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, _modified: int) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _bound(node: ast.stmt, package: str) -> dict[str, Any]:
    """Return the names that a statement at the top of a module binds; see `Source`."""
    if isinstance(node, ast.ClassDef):
        return {node.name: node}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name: OTHER}
    if isinstance(node, ast.Import):
        names = [(alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2 for alias in node.names]
        return {name: (module,) for name, module in names}
    if isinstance(node, ast.ImportFrom):
        try:
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        except ImportError as error:
            raise NotLiteral(ast.unparse(node)) from error
        return {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return {}
    if isinstance(node, ast.Assign | ast.AnnAssign) and not isinstance(node.value, ast.Call | ast.Name | ast.Attribute | None):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id: node.value for target in targets if isinstance(target, ast.Name)}
    stored = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    inner = [part for part in ast.walk(node) if isinstance(part, ast.ClassDef | ast.Import | ast.ImportFrom)]
    imported = [name for part in inner for name in _bound(part, package)]
    return dict.fromkeys([*stored, *imported], UNKNOWN)


def _presets(node: ast.ClassDef) -> tuple[str, ...] | None:
    """Return the names of the presets that a class declares itself; None where it declares none."""
    for line in node.body:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            continue
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        if [ast.unparse(target) for target in targets] != ["presets"]:
            continue
        keys = line.value.keys if isinstance(line.value, ast.Dict) else [None]
        names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
        if len(names) != len(keys):
            raise NotLiteral(ast.unparse(line))
        return tuple(names)
    return None


Constant = Callable[[str], ast.expr]


class _Replaced(ast.NodeTransformer):
    """Puts the values of constants in place of their names."""

    def __init__(self, constant: Constant) -> None:
        self.constant = constant

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constant(node.id)


def _value(node: ast.expr, constant: Constant) -> Any:
    if any(isinstance(part, ast.Name) for part in ast.walk(node)):
        node = _Replaced(constant).visit(copy.deepcopy(node))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise NotLiteral(ast.unparse(node)) from error


def _unknown(name: str) -> ast.expr:
    raise NotLiteral(name)


def flags_in_source(node: ast.ClassDef, constant: Constant = _unknown) -> list[Flag]:
    """Return the options that a class declares itself, read from its syntax tree; `constant` returns what a name stands for.

    Raises NotLiteral where values or types are not written out, or where a class's body holds more than options and methods.
    """
    flags = []
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and not ast.unparse(line.annotation).startswith(("ClassVar", "typing.ClassVar")):
            flags.append(_flag_in_source(line, constant))
        elif isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] != ["presets"]:
            raise NotLiteral(ast.unparse(line))
    if flags and not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        raise NotLiteral(node.name)
    return flags


def _flag_in_source(line: ast.AnnAssign, constant: Constant) -> Flag:
    call, annotation = line.value, plain_annotation(ast.unparse(line.annotation))
    kind = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
    if not isinstance(call, ast.Call) or kind not in ("setting", "axis", "runtime") or not annotation:
        raise NotLiteral(ast.unparse(line))
    values = [_value(argument, constant) for argument in call.args]
    words = {str(word.arg): _value(word.value, constant) for word in call.keywords}
    try:
        declared = getattr(options, kind)(*values, **words)
    except TypeError as error:  # the import says why
        raise NotLiteral(ast.unparse(line)) from error
    return Flag(ast.unparse(line.target), annotation=annotation, default=declared.default, **declared.metadata)
