"""The command line. One module a sub-command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import shlex
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from densebench.cli import cache, data, demo, doctor, ls, output, records
from densebench.cli.check import check
from densebench.cli.completing import EntryCommand
from densebench.cli.eval import evaluate
from densebench.cli.interrupts import Interrupts
from densebench.cli.leaderboard import leaderboard
from densebench.cli.merge import merge
from densebench.cli.new import new
from densebench.cli.pretrain import pretrain
from densebench.cli.pull import pull
from densebench.cli.push import push
from densebench.cli.quiet import Quiet, add_quiet
from densebench.cli.report import report
from densebench.console import one_line, silenced
from densebench.errors import Stopped, UserError, out_of_memory
from densebench.user_code import guarded


class _Commands(TyperGroup):
    """The commands. Ctrl-C leaves them as an error of our own: typer would exit silently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(_stopped()) from error


app = typer.Typer(
    cls=_Commands,
    name="densebench",
    help="Pretrain vision backbones with dense self-supervision, and score patch features the way the literature does.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
NO_MEMORY = "the memory does not suffice; finished work is saved. Give smaller sizes (batches, images, widths) or fewer points"
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command("pretrain", cls=EntryCommand, context_settings=OPEN)(pretrain)
app.command("eval", cls=EntryCommand, context_settings=OPEN)(evaluate)
app.command("leaderboard")(leaderboard)
app.command("report")(report)
app.command("merge")(merge)
app.command("push")(push)
app.command("pull")(pull)
app.command("ls")(ls.ls)
app.add_typer(data.app, name="data", help="List, download and verify data sets.")
app.add_typer(records.app, name="records", help="List and remove records.")
app.add_typer(cache.app, name="cache", help="List and clear the feature cache.")
app.command("new")(new)
app.command("check", context_settings=OPEN)(check)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
add_quiet(app)


def _version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        print(f"densebench {version('densebench')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    quiet: Quiet = False,
) -> None:
    context.with_resource(silenced(quiet))


def main() -> None:
    """Run the command line.

    A mistake of the user gives one line on stderr and status 2; Ctrl-C gives one line and status 130, and a second one ends the
    process at once; output that cannot be written gives one line and status 1.
    """
    output.plain_characters()
    interrupts = Interrupts()
    interrupts.watch()
    try:
        status = _status()
        if status == 130 and interrupts.stopped:  # before the command began
            output.say(_stopped())
        for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed one is None
            stream.flush()
    except BaseException as error:
        status = _report(error, interrupts.stopped)
    finally:
        interrupts.leave()
    sys.exit(status)


def _status() -> int:
    """Run the given command and return its exit status."""
    try:
        with guarded():
            app(prog_name="densebench")  # also under `python -m densebench`: the shell completes by this name
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _report(error: BaseException, stopped: bool) -> int:
    """Print in one line what ended the command and return the exit status. Raise again what the user cannot mend."""
    if isinstance(error, Stopped):
        if str(error):
            output.say(str(error))
        return 130
    if stopped or isinstance(error, KeyboardInterrupt):  # an interrupted import may end in any error
        output.say(_stopped())
        return 130
    if isinstance(error, UserError):
        output.say(one_line(str(error)))
        return 2
    if isinstance(error, MemoryError | RuntimeError | ValueError) and out_of_memory(error):
        output.say(f"{NO_MEMORY} ({str(error).strip().partition(chr(10))[0][:200]})")
        return 2
    if output.output_failed(error):
        assert isinstance(error, OSError)
        if error.errno != errno.EPIPE:  # `densebench ... | head`
            output.say(f"the output cannot be written: {error.strerror}")
        output.discard_output()
        return 1
    raise error


def _stopped() -> str:
    """Return the message after Ctrl-C. An evaluation resumes without --rerun, which would discard the scores made so far."""
    if sys.argv[1:2] != ["eval"]:
        return "stopped; finished work is saved"
    words = [word for word in sys.argv[1:] if word != "--rerun"]
    return f"stopped; `{shlex.join(['densebench', *words])}` resumes from there"
