"""Options: flags from fields and from source, reading values, presets, TOML."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from densebench import options
from densebench.cli import entry_options
from densebench.errors import UserError
from densebench.options import axis, runtime, setting
from densebench.source import flags_in_source


@dataclass(frozen=True)
class Example:
    count: int = setting(3, "how many", minimum=1)
    share: float = setting(0.5, "how much")
    limit: int | None = setting(None, "at most")
    kind: str = setting("soft", "which", choices=("soft", "majority"))
    deep: bool = setting(False, "whether")
    renamed: int = setting(2, "what an older version called old", recorded="old")
    sizes: tuple[int, ...] = axis((1, 8), "which sizes", minimum=1)
    workers: int = runtime(0, "processes")


def test_flags_are_the_same_from_the_class_and_from_its_source():
    source = ast.parse(Path(__file__).read_text())
    node = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Example")
    assert options.flags(Example) == flags_in_source(node)
    assert [flag.spelling for flag in options.flags(Example)][:3] == ["--count", "--share", "--limit"]


def test_values_come_from_defaults_then_preset_then_the_user():
    made = options.build(Example, {"count": 5, "share": 0.25}, {"share": "0.125", "sizes": "1,8,64"})
    assert made == Example(count=5, share=0.125, sizes=(1, 8, 64))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "0"}, "--count 0: it must be at least 1"),
        ({"count": "2.5"}, "--count 2.5: it takes N; how many"),
        ({"count": "none"}, "--count none"),
        ({"share": "nan"}, "--share nan"),
        ({"share": True}, "--share True: it takes NUMBER"),
        ({"count": True}, "--count True: it takes N"),
        ({"kind": "sofd"}, "did you mean 'soft'"),
        ({"deep": "maybe"}, "yes|no"),
        ({"sizes": "1,,8"}, "--sizes"),
        ({"sizes": "8,0"}, "--sizes 0: it must be at least 1"),
        ({"cuont": 1}, "unknown option 'cuont': did you mean 'count'"),
    ],
)
def test_wrong_values_are_one_line_that_names_them(given, message):
    with pytest.raises(UserError, match=r".") as caught:
        options.build(Example, {}, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_none_is_a_value_where_the_type_says_so():
    assert options.build(Example, {"limit": 4}, {"limit": "none"}).limit is None


class Tone(Enum):
    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True)
class Typed:
    tone: Tone = setting(Tone.WARM, "which")  # noqa: RUF009
    mode: Literal["x", "y"] | None = setting(None, "which")
    steps: tuple[Literal[1, 2], ...] = setting((1,), "which")
    folder: Path | None = setting(None, "where")  # noqa: RUF009


def test_choices_come_from_literals_and_enums():
    flags = {flag.name: flag for flag in options.flags(Typed)}
    assert [flag.choices for flag in flags.values()] == [("warm", "cold"), ("x", "y"), ("1", "2"), ()]
    assert [flag.metavar for flag in flags.values()] == ["warm|cold", "x|y", "1|2", "PATH|none"]
    assert flags["tone"].read("cold") is flags["tone"].read(Tone.COLD) is Tone.COLD
    assert (flags["mode"].read("none"), flags["steps"].read("2,1"), flags["folder"].read("a/b")) == (None, (2, 1), Path("a/b"))
    assert options.select(Typed(Tone.COLD, "x", (2,), Path("a")), "setting") == {
        "tone": "cold", "mode": "x", "steps": [2], "folder": "a",
    }  # fmt: skip
    for name, wrong in {"tone": "cald", "mode": "z", "steps": "3"}.items():
        with pytest.raises(UserError, match=f"value for --{name}"):
            flags[name].read(wrong)


@dataclass(frozen=True)
class Raised(Example):
    count: int = 7


def test_a_new_default_keeps_what_its_option_is():
    flag = options.flags(Raised)[0]
    assert (flag.name, flag.kind, flag.default, flag.minimum) == ("count", "setting", 7, 1)
    assert options.select(Raised(), "setting")["count"] == 7


def test_a_renamed_setting_keeps_its_name_in_records():
    recorded = options.select(options.build(Example, {}, {"renamed": "4"}), "setting")
    assert recorded["old"] == 4
    assert "renamed" not in recorded


def test_kinds_are_kept_apart():
    assert options.select(Example(), "axis") == {"sizes": [1, 8]}
    assert options.select(Example(), "runtime") == {"workers": 0}
    assert "workers" not in options.select(Example(), "setting")


def test_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("count = 7\nsizes = [1, 2]\n")
    assert options.build(Example, {}, options.read_toml(file)) == Example(count=7, sizes=(1, 2))
    file.write_text("count = ")
    with pytest.raises(UserError, match=r"is not TOML"):
        options.read_toml(file)
    with pytest.raises(UserError, match=r"cannot read .*missing\.toml"):
        options.read_toml(tmp_path / "missing.toml")


def test_command_line_words():
    known = options.flags(Example)
    words = ["--count", "4", "--sizes=1,2", "--deep", "--limit", "none"]
    assert entry_options.parse(words, known, []) == {"count": "4", "sizes": "1,2", "deep": "yes", "limit": "none"}
    assert entry_options.parse(["--no-deep"], known, []) == {"deep": "no"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cuont", "4"], "did you mean '--count'"),
        (["--datset", "voc"], "did you mean '--dataset'"),
        (["8"], "is not an option"),
        (["--count"], "--count has no value"),
        (["--count", "--deep"], "--count has no value"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(UserError) as caught:
        entry_options.parse(words, options.flags(Example), ["--dataset"])
    assert message in str(caught.value)


def test_help_shows_every_flag_by_kind():
    text = entry_options.describe(options.flags(Example))
    assert text.index("--sizes N,...") < text.index("--count N")  # axes first
    assert "soft|majority" in text
    assert "[1,8]" in text
