"""Write the pages that follow from the code: protocols, methods, data sets, backbones, commands and the Python reference.

Everything is read from the catalogue and from docstrings, so that a new protocol, method or data set appears by being there.
What is only included by other pages lies under generated/parts.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

import densebench
from densebench import catalog, options
from densebench.backbones.backbone import Backbone
from densebench.cli import app
from densebench.datasets.dataset import Dataset
from densebench.pages import glossary

KINDS = {
    "setting": "Settings change what a number means: results compare only where all of them are equal.",
    "axis": "Axes are swept: every score carries its value.",
    "runtime": "Runtime options say how the work is done and change no number.",
}
FOLDER = Path(__file__).resolve().parent
CLASSES_SHOWN = 30
"""Data sets of more classes only say how many they have."""
EXTENDING = ("densebench.options", "densebench.results.score", "densebench.training.objective")
"""Modules whose public parts a protocol or method of one's own uses, besides its base class."""
LAYERS = "8,9,10,11"
"""Several layers: numbers on these may have a name of their own."""
RUN = "densebench.evaluation.protocol.Run"


def write(folder: Path) -> None:
    """Write all generated pages, and remove those of an earlier build."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = _listed()
    for kind in ("protocols", "methods"):
        rows = []
        for name, title in listed[kind].items():
            _save(folder / kind / f"{name}.md", _entry_page(kind, name))
            rows.append((f"[{name}](generated/{kind}/{name}.md)", _presets_of(kind, name), text(title)))
        _save(folder / "parts" / f"{kind}.md", table(("name", "presets", "what it is"), rows))
    sources = [(code(spec), text(title)) for spec, title in listed["backbones"].items()]
    _save(folder / "parts" / "sources.md", table(("spec", "what it is"), sources))
    _save(folder / "parts" / "datasets.md", _datasets(listed["datasets"]))
    _save(folder / "commands.md", _commands_page())
    _save(folder / "parts" / "functions.md", _functions())
    _save(folder / "parts" / "classes.md", _classes(listed))
    _save(folder / "numerics.md", _numerics_page())
    _save(folder / "parts" / "published.md", _published(listed["protocols"]))
    _save(folder / "parts" / "glossary.md", glossary.markdown())
    _save(folder / "parts" / "gpu.md", _gpu_tables(FOLDER.parent / "results" / "gpu"))


def _gpu_tables(folder: Path) -> str:
    """Return a table of what `make gpu` measured for each device, or a line that says that nothing was measured yet."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))
        facts = f"{measured['cores']} cores, torch {measured['torch']}, {measured['date']}, commit {str(measured['commit'])[:12]}"
        rows = [
            (row["part"], text(row["what"]), _number(row["value"]), row["unit"], _number(row["expected"]), text(row["note"]))
            for row in measured["rows"]
        ]
        parts.append(
            f"### {measured['device']}\n\n{facts}\n\n{table(('part', 'what', 'value', 'unit', 'expected', 'note'), rows)}"
        )
    return "\n\n".join(parts) or "Nothing yet: the table of the first GPU that runs `make gpu` will stand here."


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return text(value or "")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _listed() -> dict[str, dict[str, str]]:
    """Return name -> title of everything that `densebench ls` lists, by kind."""
    listing = subprocess.run([sys.executable, "-m", "densebench", "ls", "--json"], check=True, capture_output=True, text=True)
    return {kind: {row["name"]: row["title"] for row in rows} for kind, rows in json.loads(listing.stdout).items()}


def _save(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.rstrip() + "\n", encoding="utf-8")


def text(plain: str) -> str:
    """Return plain text as Markdown: what stands in backticks is code, and nothing else has a meaning."""
    pieces = re.split(r"(`[^`]*`)", plain)
    return "".join(piece if piece.startswith("`") else re.sub(r"([<>*$]|\[(?=\^))", r"\\\1", piece) for piece in pieces)


def code(plain: str) -> str:
    """Return a text as code in a cell of a table."""
    return f"`{plain}`" if plain else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(heads), ["---"] * len(heads), *cells])


def shown(value: Any) -> str:
    """Return a value as one types it on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _parts(kind: Any, name: str) -> list[type]:
    """Return the classes of a name, in the order in which its presets are listed."""
    return list(dict.fromkeys(catalog.load(kind, name, preset) for preset in catalog.find(kind, name).all_presets))


def _presets_of(kind: Any, name: str) -> str:
    return ", ".join(code(preset) for preset in catalog.find(kind, name).all_presets)


def _entry_page(kind: Any, name: str) -> str:
    """Return the page of a protocol or method: its head as it stands in the code, presets and options."""
    parts = _parts(kind, name)
    lines = [f"# {name}"]
    for part in parts:
        module = sys.modules[part.__module__]
        title, _, head = inspect.cleandoc(module.__doc__ or part.__doc__ or "").partition("\n")
        lines += [f"## {', '.join(part.presets)}" if len(parts) > 1 else "", f"**{text(title)}**", text(head)]
        lines += [_facts(kind, part), _presets_table(part, "#" * (3 if len(parts) > 1 else 2))]
        lines += [_options_tables(part, "#" * (3 if len(parts) > 1 else 2))]
    return "\n\n".join(line for line in lines if line)


def _facts(kind: str, part: Any) -> str:
    source = f"Class `{part.__name__}` of `{part.__module__}`."
    if kind == "methods":
        return source
    return f"Takes data sets of {part.takes}; version {part.version}. {source}"


def _presets_table(part: Any, level: str) -> str:
    """Return what the presets, and the variant `paper`, change."""
    flags = {flag.name: flag for flag in options.flags(part)}

    def changes(values: Mapping[str, Any]) -> str:
        return ", ".join(code(_typed(flags[key], value)) for key, value in values.items()) or "the defaults below"

    rows = [(code(name), changes(values)) for name, values in part.presets.items()]
    lines = [f"{level} Presets", "The first is the default.", table(("preset", "what it sets"), rows)]
    paper = getattr(part, "paper", {})
    if paper:
        cells = [(f"`{preset}`" if preset else "every preset", changes(values)) for preset, values in paper.items()]
        lines += ["`--variant paper` sets on top of that:", table(("preset", "what it sets"), cells)]
    return "\n\n".join(lines)


def _typed(flag: Any, value: Any) -> str:
    """Return an option with a value, as one types it."""
    if isinstance(value, bool):
        return flag.spelling if value else _negated(flag)
    return f"{flag.spelling} {shown(value)}"


def _negated(flag: Any) -> str:
    return flag.spelling.replace("--", "--no-", 1)


def _published(names: Iterable[str]) -> str:
    """Return which presets reproduce published numbers, by the name of the protocol in files of such numbers."""
    found: dict[str, list[str]] = {}
    for name in names:
        for preset in catalog.find("protocols", name).all_presets:
            kind = catalog.load("protocols", name, preset)
            for published in dict.fromkeys([*kind.published_names(preset, "last"), *kind.published_names(preset, LAYERS)]):
                found.setdefault(published, []).append(code(f"{name}/{preset}"))
    return table(("protocol", "reproduced by"), [(code(name), ", ".join(presets)) for name, presets in sorted(found.items())])


def _options_tables(part: Any, level: str) -> str:
    lines = [f"{level} Options"]
    for kind, meaning in KINDS.items():
        rows = [
            (_spelling(flag), code(flag.metavar), code(shown(flag.default)), text(flag.help) + _limits(flag))
            for flag in options.flags(part)
            if flag.kind == kind
        ]
        if rows:
            lines += [f"**{kind}.** {meaning}", table(("option", "takes", "default", "meaning"), rows)]
    return "\n\n".join(lines)


def _spelling(flag: Any) -> str:
    return f"{code(flag.spelling)}, {code(_negated(flag))}" if flag.annotation == "bool" else code(flag.spelling)


def _limits(flag: Any) -> str:
    limits = [f"{word} {limit:,}" for word, limit in (("from", flag.minimum), ("to", flag.maximum)) if limit is not None]
    return f" ({' '.join(limits)})" if limits else ""


def _datasets(names: Iterable[str]) -> str:
    """Return what is known about data sets without their files; what those of one file share stands by the first of them."""
    first: dict[str, str] = {}
    lines = []
    for name in names:
        dataset = densebench.load_dataset(name)
        module = type(dataset).__module__
        lines += [f"### {name}", f"**{text(dataset.title)}**"]
        if module in first:
            lines.append(f"See [{first[module]}](#{first[module]}) for what the two share.")
        else:
            first[module] = name
            lines.append(text(inspect.cleandoc(sys.modules[module].__doc__ or "")))
        lines += [_dataset_table(dataset), *(f"- {_source(source)}" for source in dataset.sources)]
    return "\n\n".join(lines)


def _dataset_table(dataset: Any) -> str:
    counts = {split: dataset.official_images(split) for split in dataset.splits}
    splits = ", ".join(f"`{split}`" + (f" ({count:,} images)" if count else "") for split, count in counts.items())
    few = 0 < len(dataset.classes) <= CLASSES_SHOWN
    rows = {
        "labels": dataset.kind,
        "classes": f"{len(dataset.classes) or ''}" + (f": {', '.join(dataset.classes)}" if few else ""),
        "splits": f"{splits}; learned from: `{dataset.train_split}`, scored: `{dataset.val_split}`",
        "version of the labels": code(dataset.mapping),
        "licence": text(dataset.licence),
    }
    return table(("", ""), [(name, value) for name, value in rows.items() if value])


def _source(source: Any) -> str:
    if source.by_hand:
        return f"by hand, from <{source.url}>: {text(source.by_hand)}"
    size = f", {source.bytes / 1e9:.2g} GB" if source.bytes else ""
    return f"fetched from <{source.url}>{size}, into {', '.join(code(path) for path in source.gives)}"


def _commands_page() -> str:
    """Return every command with its own options, from the command line itself."""
    lines = [
        "# Commands",
        "`densebench eval --protocol NAME --help` and `densebench pretrain METHOD --help` also list the options of these.",
    ]
    lines += _commands("densebench", typer.main.get_command(app))
    return "\n\n".join(lines)


def _commands(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [line for word, child in command.commands.items() for line in _commands(f"{name} {word}", child)]
    rows = []
    for parameter in command.params:
        spelling = (
            ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.metavar or parameter.name.upper()
        )
        default = "" if parameter.default in (None, False) or callable(parameter.default) else shown(parameter.default)
        rows.append((code(spelling), code(_taken(parameter)), code(default), text(getattr(parameter, "help", "") or "")))
    lines = [f"## {name}", text(command.help or "")]
    return [*lines, table(("option", "takes", "default", "meaning"), rows)] if rows else lines


def _taken(parameter: Any) -> str:
    if parameter.param_type_name != "option" or parameter.is_flag:
        return ""
    return parameter.metavar or parameter.name.upper()


def _rst(directives: Iterable[str]) -> str:
    return "\n\n".join(["```{eval-rst}", *directives, "```"])


def _functions() -> str:
    """Return the public functions and classes of the package, and the classes of their modules that they take or return.

    Those that a plug-in derives from or makes stand under "Classes" instead.
    """
    public = {f"densebench.{name}": getattr(densebench, name) for name in densebench.__all__ if not name.startswith("__")}
    public = {name: value for name, value in public.items() if value not in (Backbone, Dataset)}
    for function in [value for value in public.values() if inspect.isfunction(value)]:
        words = set(re.findall(r"\w+", " ".join(map(str, function.__annotations__.values()))))
        for name, kind in inspect.getmembers(sys.modules[function.__module__], inspect.isclass):
            if name in words and kind.__module__ == function.__module__ and kind not in public.values():
                public[f"{kind.__module__}.{name}"] = kind
    return _rst(f".. auto{'class' if inspect.isclass(value) else 'function'}:: {name}" for name, value in public.items())


def _classes(listed: Mapping[str, Iterable[str]]) -> str:
    """Return the classes that a protocol, method, data set or backbone of one's own derives from or makes."""
    derived = [part for kind in ("protocols", "methods") for name in listed[kind] for part in _parts(kind, name)]
    derived += [type(densebench.load_dataset(name)) for name in listed["datasets"]]
    own = {part.__module__ for part in derived}
    bases = dict.fromkeys(base for part in derived for base in reversed(part.__mro__) if base.__module__ not in own)
    names = [f"{base.__module__}.{base.__qualname__}" for base in (Backbone, *bases) if base.__module__.startswith("densebench.")]
    return _rst([*(f".. autoclass:: {name}" for name in (*names, RUN)), *(f".. automodule:: {module}" for module in EXTENDING)])


def _numerics_page() -> str:
    """Return the pure functions, module by module."""
    package = importlib.import_module("densebench.numerics")
    lines = ["# Numerics", text(inspect.cleandoc(package.__doc__ or ""))]
    for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        lines += [f"## {module}", _rst([f".. automodule:: densebench.numerics.{module}"])]
    return "\n\n".join(lines)
