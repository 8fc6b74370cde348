"""What the shell offers after a tab, and -h everywhere."""

from __future__ import annotations

import command_line
import pytest
from made_records import write

from densebench import catalog


def offered(folder, *words, before="pass"):
    """What bash offers for the last of these words."""
    asked = {
        "_DENSEBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["densebench", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = command_line.run(folder=folder, before=before, **asked)
    assert (done.status, done.err) == (0, "")
    return done.out.split("\n")


@pytest.fixture
def tab(tmp_path, monkeypatch):
    """A function that returns what bash offers, asked in this process."""

    def ask(*words):
        monkeypatch.setenv("_DENSEBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["densebench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = command_line.call(folder=tmp_path)
        assert (done.status, done.err) == (0, "")
        return done.out.rstrip("\n").split("\n")

    return ask


def test_protocols_are_offered_without_torch(tmp_path):
    *names, last = offered(tmp_path, "eval", "--protocol", "", before=command_line.LIGHT)[:-1]
    assert names == catalog.names("protocols")
    assert last == "LIGHT"


def test_names_are_offered(tab):
    assert tab("pretrain", "") == catalog.names("methods")
    assert tab("eval", "--dataset", "camv") == ["camvid"]
    assert tab("data", "get", "camv") == ["camvid"]
    assert "pixels:" in tab("eval", "--backbone", "")
    assert tab("ls", "m") == ["methods"]
    assert tab("leaderboard", "--format", "") == ["md", "csv", "tex", "html"]
    assert tab("records", "ls", "--status", "f") == ["failed"]


def test_after_a_comma_the_next_protocol_is_offered(tab):
    assert tab("eval", "--protocol", "kmeans,inc") == ["kmeans,incontext"]


def test_presets_are_those_of_what_is_named(tab):
    assert tab("eval", "--protocol", "incontext", "--preset", "") == list(catalog.find("protocols", "incontext").all_presets)
    assert tab("pretrain", "cribo", "--preset", "") == list(catalog.find("methods", "cribo").all_presets)
    assert tab("eval", "--preset", "") == [""]


def test_options_of_the_protocol_and_the_method_are_offered(tab):
    assert tab("eval", "--protocol", "incontext", "--neigh") == ["--neighbours"]
    assert {"--image-size", "--init"} <= set(tab("pretrain", "cribo", "--i"))
    assert "--no-cycle" in tab("pretrain", "cribo", "--no-")
    assert "--neighbours" not in tab("eval", "--protocol", "kmeans", "--neigh")


def test_words_that_an_option_takes_are_offered(tab):
    assert tab("eval", "--protocol", "incontext", "--device", "c") == ["cpu", "cuda"]
    assert tab("pretrain", "croc", "--tokens", "k") == ["key"]


def test_options_of_the_part_with_the_preset_are_offered(tab):
    assert tab("eval", "--protocol", "linear", "--preset", "mmseg", "--optimi") == ["--optimiser"]
    assert tab("eval", "--protocol", "linear", "--preset", "lbfgs", "--optimi") == [""]


def test_runs_are_offered_as_backbones(tab, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "checkpoint.json").write_text("{}")
    assert tab("eval", "--backbone", "ck") == ["ckpt:runs/mine", "ckpt:"]


def test_recorded_names_are_offered_as_bash_reads_them(tab, tmp_path):
    write(tmp_path / "results", "raw pixels, 16", {(1, None): 10.0})
    write(tmp_path / "more", "pixels:16", {(1, None): 10.0}, dataset="voc", protocol="kmeans")
    assert tab("leaderboard", "--backbone", "") == ["raw\\ pixels,\\ 16"]
    assert tab("leaderboard", "--results", "more", "--results", "results", "--dataset", "") == ["voc", "scenes"]
    assert tab("leaderboard", "--results", "more", "--protocol", "") == ["kmeans"]


def test_what_cannot_be_read_offers_nothing(tab, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "broken.json").write_text("{")
    assert tab("leaderboard", "--results", ".", "--backbone", "") == [""]
    assert tab("eval", "--protocol", "./gone.py", "--neigh") == [""]
    (tmp_path / "own.toml").write_text("limit = ")
    assert tab("eval", "--config", "own.toml", "--protocol", "inc") == ["incontext"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(tmp_path, shell):
    done = command_line.run(folder=tmp_path, _DENSEBENCH_COMPLETE=f"source_{shell}")
    assert done.status == 0, done.err
    assert "_DENSEBENCH_COMPLETE" in done.out


@pytest.mark.parametrize(
    "words",
    [[], ["eval"], ["pretrain"], ["leaderboard"], ["data"], ["data", "ls"], ["records", "rm"], ["cache", "ls"]],
    ids=" ".join,
)
def test_h_is_help(tmp_path, words):
    short, long = (command_line.call(*words, spelling, folder=tmp_path) for spelling in ("-h", "--help"))
    assert short.status == 0
    assert "Usage:" in short.out
    assert short == long


def test_help_names_protocols_and_methods(tmp_path):
    for command, kind in (("eval", "protocols"), ("pretrain", "methods")):
        text = command_line.call(command, "-h", folder=tmp_path).out
        for name, entry in catalog.entries(kind).items():
            assert f"  {name} " in text
            assert entry.title in text
