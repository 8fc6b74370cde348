"""Lists and tables on terminals of several widths, and in a pipe, where they are what they always were."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import command_line
import pytest
from made_records import write
from tiers import late

CODE = "import sys; sys.argv[0] = 'densebench'; from densebench.cli import main; main()"


def on_terminal(folder, width, *words):
    """The lines that a command shows on a terminal, without its colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        os.chdir(folder)
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-W", "ignore", "-c", CODE, *words], environment)
    shown = b""
    while True:
        try:
            shown += (part := os.read(terminal, 65536))
        except OSError:  # the end of a terminal
            break
        if not part:
            break
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "").splitlines()


@pytest.fixture
def folder(tmp_path):
    for name, value in (("timm:vit_small_patch16_224.dino_in1k", 61.2), ("random:vit_small_patch16_224", 7.9)):
        write(tmp_path / "results", name, {(f, 0): value - f / 50 for f in (1, 8, 64, 128)}, pos_embed="antialias")
    return tmp_path


WORDS = [["ls"], ["data", "ls"], ["leaderboard"], ["eval", "--protocol", "kmeans", "-h"]]


@pytest.mark.parametrize("words", late(WORDS, WORDS[2], WORDS[3]), ids=" ".join)
@pytest.mark.parametrize("width", late([60, 80], 80))
def test_no_line_is_wider_than_the_terminal(folder, width, words):
    lines = on_terminal(folder, width, *words)
    assert len(lines) > 4
    assert max(map(len, lines)) <= width


def test_a_terminal_gets_tables_and_a_pipe_markdown(folder):
    assert not any("|" in line for line in on_terminal(folder, 80, "leaderboard"))
    asked = on_terminal(folder, 80, "leaderboard", "--format", "md")
    piped = command_line.call("leaderboard", folder=folder)
    assert piped.out.splitlines() == asked
    assert any(line.startswith("| rank | backbone |") for line in asked)


def test_in_a_pipe_data_sets_stand_in_whole_lines(folder):
    lines = command_line.call("data", "ls", folder=folder).out.splitlines()
    [voc] = [line for line in lines if line.startswith("voc ")]
    assert "Pascal VOC 2012" in voc
    assert "train, val, trainval, trainaug" in voc
    assert voc.endswith("annotations for research")


def test_in_80_columns_every_data_set_has_a_line_with_its_state(folder):
    lines = on_terminal(folder, 80, "data", "ls")
    names = [line.split()[0] for line in command_line.call("data", "ls", folder=folder).out.splitlines()]
    assert [line.split()[0] for line in lines if re.match(r"\w", line)] == names
    assert all(re.search(r"present|absent|partly|here", line) for line in lines if re.match(r"\w", line))


def test_filters_and_several_folders_on_the_command_line(folder):
    write(folder / "more", "pixels:16", {(1, 0): 5.0})
    write(folder / "more", "pixels:16", {(1, 0): 5.0}, dataset="voc")
    both = ["leaderboard", "--results", "results", "--results", "more"]
    out = command_line.call(*both, "--dataset", "scenes", "--backbone", "pixels:*", folder=folder).out
    assert "1 of 3 backbones shown" in out
    assert "| 3 | pixels:16 |" in out
    assert " voc " not in out
    assert "did you mean 'voc'" in command_line.call(*both, "--dataset", "vok", folder=folder).error
    page = command_line.call("report", "--results", "results", "--results", "more", folder=folder)
    assert page.status == 0, page.err
    assert "pixels:16" in (folder / "report.html").read_text(encoding="utf-8")
