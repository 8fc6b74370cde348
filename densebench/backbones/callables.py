"""Functions as backbones: the modules that a function holds are found and copied, and the function runs on the copies.

A function holds what its closure, its defaults, its globals and, for a partial, its arguments name: `lambda x: model(x)` holds
`model`. A module that lies deeper, inside another function or object, is not reached; such a function is refused, since it would
run the caller's own module, in whatever mode that is.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from densebench.backbones.module_code import closure, global_names
from densebench.backbones.private_copy import copied_with, unwrapped
from densebench.console import one_line
from densebench.errors import UserError

DEPTH = 4  # how many objects inside one another are searched for modules


class Function(nn.Module):
    """A function of images as a module, whose parts are the copies of the modules that the function holds."""

    def __init__(self, call: Callable[..., Any], parts: list[nn.Module]) -> None:
        super().__init__()
        self.call, self.parts = call, nn.ModuleList(parts)

    def forward(self, images: Tensor) -> Any:
        """Return what the function returns."""
        return self.call(images)


def held(value: Any, depth: int = 0) -> Iterator[tuple[nn.Module, int]]:
    """Yield the modules that a function or an object holds, and at which depth; 0 is the function's own names and arguments."""
    if isinstance(value, nn.Module):
        yield value, depth - 1
        return
    if depth > DEPTH:
        return
    for item in _items(value):
        yield from held(item, depth + 1)


def _items(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        used = [value.__globals__[name] for name in global_names(value.__code__) if name in value.__globals__]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*closure(value).values(), *used, *defaults]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return []
    return list(getattr(value, "__dict__", {}).values())


def copied_function(function: Callable[..., Any], name: str) -> Function:
    """Return a function on private copies of the modules that it holds. Raises UserError where not all of them can be copied."""
    found = list(held(function))
    modules = list({id(module): module for module, _ in found}.values())
    is_object = not isinstance(function, types.FunctionType | types.MethodType | functools.partial | types.BuiltinFunctionType)
    if not is_object and any(depth > 0 for _, depth in found) and not _all_near(function, found):
        raise UserError(
            f"{name} calls other functions that hold a module; give the module itself, "
            "and features=lambda m, x: ... for how to call it"
        )
    for module in modules:
        check_own(module)
    copies, call = copied_with((modules, function), modules) if is_object else (copied_with(modules, modules), function)
    if not is_object:
        call = _rebound(function, {id(module): copy for module, copy in zip(modules, copies, strict=True)})
    return Function(call, copies)


def _all_near(function: Any, found: list[tuple[nn.Module, int]]) -> bool:
    """Return whether a partial or a method holds modules only in itself or in its own function."""
    return isinstance(function, functools.partial | types.MethodType) and all(depth <= 1 for _, depth in found)


def _rebound(value: Any, copies: Mapping[int, nn.Module]) -> Any:
    """Return a function that holds copies instead of the modules that it holds now."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, functools.partial):
        arguments = [_rebound(item, copies) for item in value.args]
        named = {name: _rebound(item, copies) for name, item in value.keywords.items()}
        return functools.partial(_rebound(value.func, copies), *arguments, **named)
    if isinstance(value, types.MethodType):
        return types.MethodType(_rebound(value.__func__, copies), _rebound(value.__self__, copies))
    if not isinstance(value, types.FunctionType) or not any(True for _ in held(value)):
        return value
    names = global_names(value.__code__)
    used = {name: item for name, item in value.__globals__.items() if name in names and id(item) in copies}
    scope = {**value.__globals__, **{name: copies[id(item)] for name, item in used.items()}}
    cells = [types.CellType(copies.get(id(item), item)) for item in closure(value).values()]
    defaults = None if value.__defaults__ is None else tuple(copies.get(id(item), item) for item in value.__defaults__)
    made = types.FunctionType(value.__code__, scope, value.__name__, defaults, tuple(cells))
    made.__kwdefaults__ = {name: copies.get(id(item), item) for name, item in (value.__kwdefaults__ or {}).items()} or None
    made.__module__, made.__qualname__ = value.__module__, value.__qualname__
    return made


def check_own(module: nn.Module) -> None:
    """Raise UserError where a function among a module's attributes holds a module, which a copy of the module would share."""
    for path, part in module.named_modules():
        for name, value in vars(part).items() if unwrapped(part) is part else ():
            if isinstance(value, types.FunctionType | functools.partial) and any(True for _ in held(value)):
                where = ".".join(filter(None, (path, name)))
                raise UserError(
                    f"{type(module).__name__}: its attribute {where} is a function that holds a module, which a private copy "
                    "would share; define it as a method of the class, or give the module without it"
                )


def check_features(features: Any) -> None:
    """Raise UserError where `features=` is no function, or holds a module instead of using the one that it is given."""
    if not callable(features):
        shown = one_line(repr(features))[:60]
        raise UserError(f"features={shown}: give a function of the module and the images: features=lambda m, x: ...")
    if any(True for _ in held(features)):
        raise UserError(
            "features= names a module of its own, which would be run as it is now; use its first argument, the private copy: "
            "features=lambda m, x: m.backbone(x)"
        )
