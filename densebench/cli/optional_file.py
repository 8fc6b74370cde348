"""`--published [FILE]`: a switch that a file may follow."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

SWITCH = "--published"


class OptionalFile(TyperCommand):
    """A command whose option --published may stand alone or before a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; --published before another option, or at the end, has an empty value."""
        following = [*args[1:], "-"]
        return super().parse_args(
            ctx,
            [
                f"{word}=" if word == SWITCH and after.startswith("-") else word
                for word, after in zip(args, following, strict=False)
            ],
        )


def published_of(value: str | None) -> bool | str:
    """Return what --published says: False where it is not given, True alone, or the path of a file."""
    return False if value is None else value or True
