"""Messages: bare lines on stderr, through Python's logging, once, and as the user has configured it."""

from __future__ import annotations

import io
import logging
import logging.config
import sys

import pytest
from command_line import call
from made_records import write

from densebench.console import each_once, notice, silenced, warn

LOGGER = logging.getLogger("densebench")


@pytest.fixture(autouse=True)
def restored():
    """The loggers as they were, afterwards."""
    kept = [(logger, list(logger.handlers), logger.level, logger.disabled) for logger in (LOGGER, logging.root)]
    yield
    for logger, handlers, level, disabled in kept:
        logger.handlers, logger.disabled = handlers, disabled
        logger.setLevel(level)


def basic(**settings):
    logging.root.handlers = []  # where tests collect messages
    logging.basicConfig(stream=sys.stderr, **settings)


def both():
    notice("a notice")
    warn("a warning")


def test_without_configuration_both_are_bare_lines(capsys):
    both()
    assert capsys.readouterr().err == "a notice\na warning\n"


def test_a_message_is_shown_once_during_a_block_and_again_after_it(capsys):
    with each_once():
        both()
        both()
        warn("another warning")
    both()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a notice", "a warning", "another warning", "a notice", "a warning"]


def test_what_no_encoding_holds_is_escaped(caplog):
    notice("the file a\udcff.png")
    assert caplog.messages == ["the file a\\udcff.png"]


def test_records_have_their_level_and_the_line_that_wrote_them(caplog):
    both()
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("densebench", "INFO", "a notice"),
        ("densebench", "WARNING", "a warning"),
    ]
    assert {(record.filename, record.funcName) for record in caplog.records} == {("test_messages.py", "both")}


def test_basic_configuration_is_obeyed_and_nothing_is_printed_twice(capsys):
    basic(level="INFO")
    both()
    assert capsys.readouterr().err == "INFO:densebench:a notice\nWARNING:densebench:a warning\n"


def test_basic_configuration_without_a_level_shows_warnings(capsys):
    basic()
    both()
    assert capsys.readouterr().err == "WARNING:densebench:a warning\n"


def test_messages_go_to_the_users_own_handler_only(capsys, tmp_path):
    handler = logging.FileHandler(tmp_path / "log")
    LOGGER.addHandler(handler)
    both()
    handler.close()
    assert (tmp_path / "log").read_text() == "a notice\na warning\n"
    assert capsys.readouterr().err == ""


def test_a_dictionary_that_configures_logging_is_obeyed(capsys):
    both()
    capsys.readouterr()
    handlers = {"screen": {"class": "logging.StreamHandler", "formatter": "short"}}
    loggers = {"densebench": {"level": "WARNING", "handlers": ["screen"]}}
    formatters = {"short": {"format": "%(levelname)s %(message)s"}}
    logging.config.dictConfig({"version": 1, "handlers": handlers, "loggers": loggers, "formatters": formatters})
    both()
    assert capsys.readouterr().err == "WARNING a warning\n"


def test_a_dictionary_that_disables_other_loggers_is_obeyed(capsys):
    both()
    capsys.readouterr()
    logging.config.dictConfig({"version": 1})
    both()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "said"), [("WARNING", "a warning\n"), ("ERROR", ""), ("DEBUG", "a notice\na warning\n")])
def test_a_level_is_obeyed(level, said, capsys):
    LOGGER.setLevel(level)
    both()
    assert capsys.readouterr().err == said


def test_the_environment_silences_notices(capsys, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_QUIET", "1")
    both()
    assert capsys.readouterr().err == "a warning\n"


def test_only_the_main_process_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    both()
    assert capsys.readouterr().err == ""


def test_handlers_that_show_nothing_do_not_take_messages_away(capsys):
    logging.root.handlers = [logging.NullHandler(), logging.StreamHandler(io.StringIO())]
    both()
    assert capsys.readouterr().err == "a notice\na warning\n"


def test_silence_ends_with_its_block(capsys):
    with pytest.raises(ValueError, match="x"), silenced():
        both()
        raise ValueError("x")
    both()
    assert capsys.readouterr().err == "a warning\na notice\na warning\n"


def test_silence_does_not_raise_the_voice(capsys):
    LOGGER.setLevel("ERROR")
    with silenced():
        both()
    assert capsys.readouterr().err == ""


EVAL = ["eval", "--protocol", "incontext", "--backbone", "pixels:16", "--dataset", "scenes", "--limit", "4", "--neighbours", "2"]


def test_a_quiet_evaluation_prints_its_scores_and_nothing_else(tmp_path):
    quiet = call(*EVAL, "--quiet", folder=tmp_path)
    loud = call(*EVAL, "--rerun", folder=tmp_path)
    assert (quiet.status, quiet.out, quiet.err) == (0, loud.out, "")
    assert "search and scoring: 4/4 images in" in loud.err


@pytest.mark.parametrize("words", [["leaderboard", "-q"], ["--quiet", "leaderboard"], ["records", "ls", "--quiet"]], ids=" ".join)
def test_a_quiet_command_still_warns(words, tmp_path):
    write(tmp_path / "results", "a", {(1, None): 50.0})
    (tmp_path / "results" / "records" / "broken.json").write_text("{")
    done = call(*words, folder=tmp_path)
    assert done.status == 0 and done.out
    assert done.err.startswith("left out: ") and done.err.count("\n") == 1


def test_a_quiet_command_still_fails_in_one_line(tmp_path):
    assert "did you mean" in call("eval", "--protocol", "incontex", "--quiet", folder=tmp_path).error


@pytest.mark.parametrize(
    "command",
    ["eval", "pretrain", "demo", "report", "ls", "data get", "data verify", "cache clear", "records ls", "doctor", "leaderboard"],
)
def test_the_help_of_every_command_names_it(command, tmp_path):
    assert "--quiet" in call(*command.split(), "--help", folder=tmp_path).out
