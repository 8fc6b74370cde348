"""`--quiet`, an option of every sub-command: warnings and errors stay, and so does what is written to stdout."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from densebench.console import silenced

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notices; warnings and errors stay.")]


def add_quiet(app: typer.Typer) -> None:
    """Give every command of `app` and of the groups in it the option `--quiet`."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _quietable(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_quiet(group.typer_instance)


def _quietable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the additional option `--quiet`, which is not passed on to it."""
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    parameters = [parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items()]
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)

    @functools.wraps(command)
    def run(*arguments: Any, quiet: bool = False, **values: Any) -> Any:
        with silenced(quiet):
            return command(*arguments, **values)

    run.__signature__ = signature.replace(parameters=[*parameters, option])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "quiet": Quiet}
    return run
