"""The command line. One module a sub-command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from densebench.cli import cache, data, demo, doctor, ls, output, records
from densebench.cli.check import check
from densebench.cli.choose import choose
from densebench.cli.completing import EntryCommand
from densebench.cli.diff import diff
from densebench.cli.eval import evaluate
from densebench.cli.interrupts import Interrupts
from densebench.cli.leaderboard import leaderboard
from densebench.cli.look import look
from densebench.cli.merge import merge
from densebench.cli.new import new
from densebench.cli.optional_file import OptionalFile
from densebench.cli.pretrain import pretrain
from densebench.cli.pull import pull
from densebench.cli.push import push
from densebench.cli.quiet import Quiet, add_quiet
from densebench.cli.report import report
from densebench.cli.run import run
from densebench.cli.segment import segment
from densebench.cli.show import show
from densebench.console import one_line, silenced
from densebench.errors import Stopped, UserError, out_of_memory
from densebench.launching import is_told_here, note_failure
from densebench.user_code import guarded


class _Commands(TyperGroup):
    """The commands. Ctrl-C and a value that an option cannot take leave them as errors of our own.

    typer would exit silently, and draw a box of several lines.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(_stopped()) from error
        except typer.BadParameter as error:
            raise _refused(error) from error


def _refused(error: typer.BadParameter) -> Exception:
    """Return the error of a value in our own words; one without a value, such as a missing argument, as it is."""
    found = getattr(error.__cause__, "errors", list[Any])()
    if not found or error.param is None:
        return error
    why = error.message.replace("Input should be", "it must be").partition(", unable")[0]
    return UserError(f"{error.param.opts[0]} {found[0]['input']}: {why}")


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
app.command("choose")(choose)
app.command("run")(run)
app.command("look")(look)
app.command("leaderboard", cls=OptionalFile)(leaderboard)
app.command("report", cls=OptionalFile)(report)
app.command("segment", cls=EntryCommand, context_settings=OPEN)(segment)
app.command("merge")(merge)
app.command("push")(push)
app.command("pull")(pull)
app.command("ls")(ls.ls)
app.add_typer(data.app, name="data", help="List, download and verify data sets.")
app.add_typer(records.app, name="records", help="List and remove records.")
app.command("show")(show)
app.command("diff")(diff)
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
        if status == 130 and interrupts.stopped and os.environ.get("RANK", "0") == "0":  # before the command began
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
    """Print in one line what ended the command and return the exit status. Raise again what the user cannot mend.

    A process of several notes it instead, for the process that started them.
    """
    found = _in_words(error, stopped)
    if found is None:
        if note_failure(error, "".join(traceback.format_exception(error)), 1):
            return 1
        raise error
    text, status = found
    if not note_failure(error, f"densebench: {text}\n" if text else "", status) and text and is_told_here(error):
        output.say(text)
    if output.output_failed(error):
        output.discard_output()
    return status


def _in_words(error: BaseException, stopped: bool) -> tuple[str, int] | None:
    """Return in one line what ended the command, and the exit status; None for what the user cannot mend."""
    if isinstance(error, Stopped):
        return str(error), 130
    if stopped or isinstance(error, KeyboardInterrupt):  # an interrupted import may end in any error
        return _stopped(), 130
    if isinstance(error, UserError):
        return one_line(str(error)), 2
    if isinstance(error, PermissionError) and error.filename is not None:
        return one_line(f"cannot open {os.fspath(error.filename)}: {error.strerror}; check its permissions"), 2
    if isinstance(error, MemoryError | RuntimeError | ValueError) and out_of_memory(error):
        return f"{NO_MEMORY} ({str(error).strip().partition(chr(10))[0][:200]})", 2
    if output.output_failed(error):
        assert isinstance(error, OSError)
        return (
            "" if error.errno == errno.EPIPE else f"the output cannot be written: {error.strerror}",
            1,
        )  # `densebench ... | head`
    return None


def _stopped() -> str:
    """Return the message after Ctrl-C. What resumes does so without --rerun, which would discard scores."""
    if sys.argv[1:2] == ["look"]:
        return "stopped; no page was written"
    if sys.argv[1:2] not in (["eval"], ["run"], ["segment"]):
        return "stopped; finished work is saved"
    words = [word for word in sys.argv[1:] if word != "--rerun"]
    return f"stopped; `{shlex.join(['densebench', *words])}` resumes from there"
