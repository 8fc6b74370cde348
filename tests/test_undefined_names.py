"""Every name that the code reads is defined. No linter checks it here: shapes such as Float[Tensor, "n"] look like names."""

import builtins
import dis
import types
from collections.abc import Iterator
from pathlib import Path

import densebench

ROOT = Path(densebench.__file__).parents[1]
FILES = sorted(path for folder in ("densebench", "evals", "pretrain") for path in (ROOT / folder).rglob("*.py"))
GIVEN = {*vars(builtins), "__file__", "__path__", "__annotations__", "__module__", "__qualname__"}


def instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from instructions(inner)


def undefined(text: str) -> set[str]:
    """Return the global names that a module reads and nowhere sets."""
    steps = [(step.opname, str(step.argval)) for step in instructions(compile(text, "module", "exec"))]
    stored = {name for operation, name in steps if operation in ("STORE_NAME", "STORE_GLOBAL")}
    return {name for operation, name in steps if operation in ("LOAD_NAME", "LOAD_GLOBAL")} - stored - GIVEN


def test_an_undefined_name_is_seen_and_a_shape_is_none():
    assert undefined("def f(x: Float[Tensor, 'n']):\n    return warn(x)") >= {"warn"}
    head = "from __future__ import annotations\n"
    assert undefined(f"{head}def f(x: Float[Tensor, 'n']) -> Set:\n    return x") == set()


def test_names_are_defined():
    names = {str(path.relative_to(ROOT)): undefined(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: missing for name, missing in names.items() if missing} == {}
