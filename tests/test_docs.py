"""README and the documentation: links lead somewhere, commands have the options that they are shown with, examples are found."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from densebench import catalog
from densebench.cli import app
from densebench.datasets import load_dataset
from densebench.results.published import number_files
from densebench.tables import figure_keys, keys, overrides, slurm, states
from densebench.tables.table_file import read_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = ROOT / "docs" / "examples"
GENERATED = "generated/"  # pages that exist only once the documentation is built
PLACEHOLDER = re.compile(r"[A-Z]+")  # DATA, SPEC, FILE


def commands(page: Path) -> Iterator[str]:
    """Yield the command lines of a page: those of code blocks, joined where they are continued, and those in backticks.

    A command that is shown with its error message is left out.
    """
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = text.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        match = re.match(r"(?: {4,}|\$ | +\$ )(densebench .*)", line)
        if match and not after.strip().startswith("densebench: "):
            yield match.group(1).partition(" #")[0]
    yield from re.findall(r"`(densebench [^`]*)`", text)


COMMANDS = [pytest.param(line, id=f"{page.stem}: {line[:60]}") for page in PAGES for line in dict.fromkeys(commands(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) + re.findall(r"\{(?:include|literalinclude)\} (\S+)", text)
    for link in links:
        if not link.startswith(("http:", "https:", GENERATED)):
            assert (page.parent / link).exists(), link


def test_every_page_is_in_a_table_of_contents():
    trees = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", trees, re.MULTILINE), page.name


def test_there_are_commands():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options_that_they_are_shown_with(line):
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    known = {spelling for parameter in command.params for spelling in parameter.opts} | {"--help", "--version"}
    own = own_flags(command.name, words)
    for word, value in zip(words, [*words[1:], ""], strict=False):
        name, _, given = word.partition("=")
        if not name.startswith("--") or name in known:
            continue
        flag = own.get(name) or own.get(name.replace("--no-", "--", 1))
        assert flag is not None, f"{name} of {line}"
        if flag.annotation != "bool" and not PLACEHOLDER.fullmatch(given or value):
            flag.read(given or value)


@functools.cache
def found(kind: Any, name: str) -> catalog.Entry:
    """Return an entry of the catalogue, which need not be read anew for each command."""
    return catalog.find(kind, name)


def own_flags(command: str, words: list[str]) -> dict[str, Any]:
    """Return the options that protocols or a method add to a command, by spelling; also check names and presets."""
    if command not in ("eval", "pretrain", "segment"):
        return {}
    kind = "methods" if command == "pretrain" else "protocols"
    named = words[:1] if command == "pretrain" else (after(words, "--protocol") or after(words, "--method")).split(",")
    named = ["incontext"] if command == "segment" and named == [""] else named
    presets = (after(words, "--preset") or ",").split(",")
    flags = {}
    for name, preset in zip(named, [*presets, *[""] * len(named)], strict=False):
        example = EXAMPLES / name
        if not name or name.startswith("-") or PLACEHOLDER.fullmatch(name) or (name.endswith(".py") and not example.is_file()):
            continue
        entry = found(kind, str(example) if name.endswith(".py") else name)
        assert not preset or preset in entry.all_presets, f"{preset} of {name}"
        flags |= {flag.spelling: flag for flag in entry.part(preset or None).flags()}
    return flags


def after(words: list[str], option: str) -> str:
    """Return the value of an option; empty where it is not given."""
    return words[words.index(option) + 1] if option in words[:-1] else ""


DESCRIBED = {
    "run": [keys.BACKBONE, keys.PRETRAIN, keys.EVALUATION, keys.MISSING, keys.SWEPT, overrides.DATA[2:], states.STATES],
    "run, figures": [getattr(figure_keys, name) for name in ("FIGURE", "OF_PROTOCOL", "OF_PRETRAINING", "CURVE", "MAPS")],
    "scale": [slurm.KEYS],
    "published": [number_files.COLUMNS, [number_files.EVALUATION]],
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_every_key_of_a_file_is_described(what):
    page = (ROOT / "docs" / f"{what.partition(',')[0]}.md").read_text(encoding="utf-8")
    for key in itertools.chain(*DESCRIBED[what]):
        assert f"`{key}`" in page, key


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_table_files_can_be_read(path):
    assert read_table(path).title


def test_examples_are_found():
    assert load_dataset(str(EXAMPLES / "night.py")).name == "night"
    assert load_dataset(str(EXAMPLES / "tools.py")).kind == "keypoint pairs"
    assert not number_files.read_numbers(EXAMPLES / "numbers.csv").empty
