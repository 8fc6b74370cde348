"""The command line. One module a sub-command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from densebench.cli import cache, data, demo, doctor, ls, records
from densebench.cli.eval import evaluate
from densebench.cli.leaderboard import leaderboard
from densebench.cli.pretrain import pretrain
from densebench.cli.report import report
from densebench.console import one_line
from densebench.errors import Stopped, UserError, out_of_memory
from densebench.user_errors import guarded

app = typer.Typer(
    name="densebench",
    help="Pretrain vision backbones with dense self-supervision, and score patch features the way the literature does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
NO_MEMORY = "the memory does not suffice; what was finished is kept. Give smaller sizes (batches, images, widths) or fewer points"
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command("pretrain", context_settings=OPEN)(pretrain)
app.command("eval", context_settings=OPEN)(evaluate)
app.command("leaderboard")(leaderboard)
app.command("report")(report)
app.command("ls")(ls.ls)
app.add_typer(data.app, name="data", help="List, download and verify data sets.")
app.add_typer(records.app, name="records", help="List and remove records.")
app.add_typer(cache.app, name="cache", help="List and clear the feature cache.")
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"densebench {version('densebench')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: what the user got wrong is one line on stderr and status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold bytes that are no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with guarded():
            app()
    except UserError as error:
        print(f"densebench: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError, ValueError) as error:
        if not out_of_memory(error):
            raise
        print(f"densebench: {NO_MEMORY} ({str(error).strip().partition(chr(10))[0][:200]})", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        if str(stopped):
            print(f"densebench: {stopped}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("densebench: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `densebench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
