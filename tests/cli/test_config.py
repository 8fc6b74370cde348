"""`--config FILE`: everything that the command line takes, in a file that the command line overrides."""

from __future__ import annotations

import json

import command_line
import pytest

EVAL = """
protocol = "incontext"
backbone = ["pixels:16", "pixels:8"]
dataset = "scenes"
limit = 8
results = "out"
fractions = [1, 4]
seeds = 1
neighbours = 5
image-size = 64
workers = 0
"""


@pytest.fixture
def call(tmp_path):
    return lambda *words: command_line.call(*words, folder=tmp_path)


def planned(done):
    """The lines of a dry run: what would be scored."""
    assert done.status == 0, done.err
    return [line for line in done.err.splitlines() if line.startswith("dry run: ")]


def test_a_file_gives_everything_and_the_command_line_overrides_it(call, tmp_path):
    (tmp_path / "own.toml").write_text(EVAL)
    done = call("eval", "--config", "own.toml", "--backbone", "pixels:32", "--fractions", "2")
    assert done.status == 0, done.err
    [path] = (tmp_path / "out" / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert (record["backbone"]["spec"], record["dataset"]["name"], record["dataset"]["limit"]) == ("pixels:32", "scenes", 8)
    assert {score["fraction"] for score in record["scores"]} == {2}
    assert (record["protocol"]["settings"]["neighbours"], record["protocol"]["settings"]["image_size"]) == ([5], 64)
    assert record["run"]["command"] == "densebench eval --config own.toml --backbone pixels:32 --fractions 2"


def test_without_further_words_the_whole_file_counts(call, tmp_path):
    (tmp_path / "own.toml").write_text(EVAL + "dry_run = true\n")
    assert planned(call("eval", "--config", "own.toml")) == [
        f"dry run: 2 points of scenes with pixels:{stride}; nothing is scored or written" for stride in (16, 8)
    ]


def test_lists_with_commas_are_lists_in_the_file(call, tmp_path):
    text = 'protocol = ["kmeans", "incontext"]\npreset = ["leopart", "cribo"]\nbackbone = "random:test_vit"\nlayer = [0, 1]\n'
    (tmp_path / "own.toml").write_text(text + 'dataset = ["scenes"]\nlimit = 8\nimage_size = 64\nclusters = 0\nseeds = 1\n')
    assert len(planned(call("eval", "--config", "own.toml", "--dry-run", "--resize", "square"))) == 2


def test_a_method_is_trained_as_a_file_says(call, tmp_path):
    text = 'method = "cribo"\ndata = "scenes"\nlimit = 24\narch = "test_vit"\nimage-size = 32\n'
    (tmp_path / "own.toml").write_text(text + "batch-size = 8\nsteps = 2\nobjects = 4\n")
    done = call("pretrain", "--config", "own.toml", "--dry-run", "--steps", "3")
    assert done.status == 0, done.err
    assert "3 steps of 8 images" in done.err
    assert "unknown method 'crib'" in call("pretrain", "crib", "--config", "own.toml").error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("neighburs = 3", "own.toml: unknown option 'neighburs': did you mean 'neighbours'?"),
        ("limmit = 3", "own.toml: unknown option 'limmit': did you mean 'limit'?"),
        ('limit = "x"', 'own.toml: limit = "x": it takes a whole number. Use at most so many images'),
        ("limit = true", "own.toml: limit = true: it takes a whole number."),
        ("limit = 0", "own.toml: limit = 0: it must be at least 1"),
        ('dry_run = "yes"', 'own.toml: dry_run = "yes": it takes true or false.'),
        ("dataset = [3.5]", "own.toml: dataset = [3.5]: it takes a text or a list."),
        ("results = 3", "own.toml: results = 3: it takes a path."),
        ("[results]", "own.toml: results = {}: it takes a path."),
        ('neighbours = "many"', "own.toml: --neighbours many: it takes N,...;"),
        ("[incontext]", "own.toml: unknown option 'incontext'"),
        ('config = "other.toml"', "own.toml: unknown option 'config'"),
        ("dry-run = true\ndry_run = true", "own.toml gives dry-run twice, with dashes and with underscores"),
        ("limit = ", "own.toml is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(call, tmp_path, line, message):
    (tmp_path / "own.toml").write_text(line + "\n")
    assert message in call("eval", "--protocol", "incontext", "--config", "own.toml").error


def test_help_is_that_of_the_protocol_in_the_file(call, tmp_path):
    (tmp_path / "own.toml").write_text(EVAL)
    assert "--neighbours N,..." in call("eval", "--config", "own.toml", "-h").out
