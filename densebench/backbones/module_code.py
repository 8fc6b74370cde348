"""The digest of the code that a module runs, and of what it holds besides tensors: two modules that compute differently differ.

What enters are the classes of all its parts, the functions that they hold, their plain attributes (a temperature, a number of
heads), the values in closures and the globals that functions of a notebook read. Code of the user's files enters by the digest of
the file and of all it imports, and as it was compiled, since a file may be edited after its import; installed code by its name.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densebench.backbones.weights import weights_digest
from densebench.files.atomic import digest
from densebench.user_code import LENGTH, file_code, user_file

PLAIN = (bool, int, str, type(None))
OF_TORCH = frozenset(vars(nn.Module())) | {"training", "__module__", "__dict__", "__weakref__", "__doc__", "__annotations__"}
OF_TRAINING = frozenset({
    "_trainer", "_fabric", "_device", "_dtype", "_compiled_call_impl", "_compile_kwargs", "_is_torch_compile", "name_or_path",
    "warnings_issued",
})  # fmt: skip
"""Attributes that Lightning, torch.compile and transformers set, and that decide no feature."""
DEPTH = 8  # of values inside values
ROOT = 2  # the depth of what `code_digest` is given


def code_digest(*things: Any) -> str:
    """Return the digest of the code and the plain values of modules and functions, not of the tensors of modules' state dicts."""
    return digest(_Description().of(list(things)), LENGTH)


class _Description:
    """Values as JSON, each object once."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}
        self.files: dict[str, str] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return a value as JSON values that are equal where the values compute the same."""
        if isinstance(value, PLAIN) and not isinstance(value, enum.Enum):
            return value
        if isinstance(value, float | complex | bytes | torch.dtype):
            return [type(value).__name__, repr(value)]
        if id(value) in self.seen or depth > DEPTH:
            return ["again", type(value).__qualname__]
        self.seen[id(value)] = value  # kept, so that no other object gets its id
        return self._described(value, depth + 1)

    def _described(self, value: Any, depth: int) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            return ["tensor", _tensor_digest(value)]
        if isinstance(value, nn.Module):
            return self._module(value, depth)
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, functools.partial):
            return ["partial", *(self.of(part, depth) for part in (value.func, value.args, value.keywords))]
        if isinstance(value, type):
            return self._class(value, depth)
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__, self._file(value.__name__)]
        if isinstance(value, Mapping):
            return ["mapping", [[self.of(key, depth), self.of(item, depth)] for key, item in value.items()]]
        if isinstance(value, list | tuple):
            return [self.of(item, depth) for item in value]
        if isinstance(value, set | frozenset):
            return [
                "set",
                *sorted(repr(item) if isinstance(item, (*PLAIN, float)) else type(item).__qualname__ for item in value),
            ]
        if isinstance(value, enum.Enum):
            return [type(value).__qualname__, value.name]
        if isinstance(value, types.CodeType):
            return self._compiled(value, depth)
        kind = type(value)
        named = getattr(value, "__qualname__", "")  # of built-in functions
        held = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
        return [kind.__module__, kind.__qualname__, named, self._class(kind, depth), self.of(held, depth)]

    def _file(self, module: str) -> str:
        """Return the digest of a user's module and of all that it imports; "" for others."""
        if module not in self.files:
            file = user_file(module) if module else None
            self.files[module] = "" if file is None else file_code(file)
        return self.files[module]

    def _module(self, module: nn.Module, depth: int) -> Any:
        parts = []
        for name, part in module.named_modules():
            plain = {key: value for key, value in vars(part).items() if key not in OF_TORCH | OF_TRAINING}
            more = [self.of(value, depth) for key, value in sorted(plain.items()) if not isinstance(value, nn.Module)]
            keys = sorted(set(part._non_persistent_buffers_set) & set(part._buffers.keys()))
            unsaved = [self.of(part._buffers[key], depth) for key in keys]
            parts.append([name, self._class(type(part), depth), sorted(plain), more, unsaved, *self._hooks(part, depth)])
        # a module that lies in no other one is in nobody's state dict
        return parts if depth <= ROOT else [weights_digest(module), *parts]

    def _hooks(self, part: nn.Module, depth: int) -> Iterator[Any]:
        yield from (self.of(hook, depth) for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()))
        if isinstance(part, torch.jit.ScriptModule | torch.fx.GraphModule):  # their forward is no Python that the class defines
            with suppress(RuntimeError):  # a scripted part without a forward
                yield str(part.code)

    def _class(self, kind: type, depth: int) -> Any:
        if id(kind) in self.seen:
            return ["class", kind.__module__, kind.__qualname__]
        self.seen[id(kind)] = kind
        own = [base for base in kind.__mro__ if _is_users(base.__module__)]
        held = [[base.__qualname__, self._file(base.__module__), self._members(base, depth)] for base in own]
        return ["class", *([] if _is_users(kind.__module__) else [kind.__module__]), kind.__qualname__, held]

    def _members(self, kind: type, depth: int) -> list[Any]:
        members = []
        for name, value in sorted(vars(kind).items()):
            if name not in OF_TORCH and not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", None) or value
                members.append([name, self.of(inner, depth)])
        return members

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        if not _is_users(function.__module__ or ""):
            return ["function", function.__module__, function.__qualname__, self._closure(function, depth)]
        used = {name: function.__globals__[name] for name in global_names(function.__code__) if name in function.__globals__}
        return [
            "function",
            self._compiled(function.__code__, depth),
            self.of([function.__defaults__, function.__kwdefaults__], depth),
            self._closure(function, depth),
            [[name, self.of(value, depth)] for name, value in sorted(used.items())],
            self._file(function.__module__ or ""),
        ]

    def _closure(self, function: types.FunctionType, depth: int) -> list[Any]:
        return [self.of(value, depth) for value in closure(function).values()]

    def _compiled(self, code: types.CodeType, depth: int) -> Any:
        constants = [self.of(value, depth) for value in code.co_consts]
        return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames), list(code.co_freevars)]


def _tensor_digest(value: Any) -> str:
    holder = nn.Module()
    holder.register_buffer("value", torch.as_tensor(value).detach())
    return weights_digest(holder)


def _is_users(module: str) -> bool:
    """Return whether a module is the user's: a file of theirs, a script, a notebook, or typed in."""
    return module == "__main__" or user_file(module) is not None or (bool(module) and module not in sys.modules)


def closure(function: types.FunctionType) -> dict[str, Any]:
    """Return the values of a function's closure by name; those that are not yet set are left out."""
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            continue
    return values


def global_names(code: types.CodeType) -> set[str]:
    """Return the names of globals that a function reads, those of the functions inside it too."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))
