"""The catalogue: what a dropped file, a folder, a plug-in or a path becomes, and what a broken one does to the others."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import command_line
import pytest

from densebench import catalog, options
from densebench.errors import UserError

HEAD = '''"""A protocol of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from densebench.evals.incontext import InContext
from densebench.options import axis, setting
'''
PACKAGES = {"evals": "densebench.evals", "pretrain": "densebench.pretrain"}
KINDS = {"evals": "protocols", "pretrain": "methods"}


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """Writes files as if they lay in evals/ or pretrain/."""
    for folder, package in PACKAGES.items():
        (tmp_path / folder).mkdir()
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path / folder)])
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        if any(str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path / folder)) for folder in PACKAGES):
            del sys.modules[name]


def flag(entry, name):
    [found] = [flag for flag in entry.flags() if flag.name == name]
    return found


def conformance():
    return [(kind, name) for kind in ("protocols", "methods") for name in catalog.names(kind)]


@pytest.mark.parametrize(("kind", "name"), conformance())
def test_source_and_class_describe_an_entry_alike(kind, name):
    entry = catalog.find(kind, name)
    for part in entry.parts:
        kind_of_part = catalog.load(kind, name, part.presets[0])
        assert part.flags() == options.flags(kind_of_part)
        assert part.presets == tuple(kind_of_part.presets)
        assert (part.class_name, part.module) == (kind_of_part.__name__, kind_of_part.__module__)


def test_a_dropped_file_is_a_name(drop):
    text = (
        HEAD
        + '@dataclass(frozen=True)\nclass X(InContext):\n    presets = {"mine": {}}\n    shade: int = setting(3, "how dark")\n'
    )
    drop({"evals/x_y.py": text})
    entry = catalog.entries("protocols")["x-y"]
    assert (entry.title, entry.presets) == ("A protocol of one's own.", ("mine",))
    assert flag(entry, "shade").read("7") == 7 and flag(entry, "neighbours")
    assert "densebench.evals.x_y" not in sys.modules
    assert catalog.load("protocols", "x-y").__name__ == "X"
    assert catalog.code_of("protocols", "x-y") == ""


def test_a_class_inherits_presets_and_options_of_another_entry(drop):
    drop({"pretrain/mine.py": "import densebench.pretrain.cribo.method as m\n\n\nclass Mine(m.CrIBo):\n    pass\n"})
    entry, base = catalog.find("methods", "mine"), catalog.find("methods", "cribo")
    assert (entry.presets, entry.flags()) == (base.presets, base.flags())
    assert catalog.load("methods", "mine").__name__ == "Mine"


FOLDER = {
    "pretrain/y/__init__.py": "from .second import Two\nfrom densebench.pretrain.y.first import One\nfrom .first import helper\n",
    "pretrain/y/shared.py": "from densebench.pretrain.dino import DINO as Base\n\n\nclass _Shared(Base):\n    pass\n",
    "pretrain/y/first.py": '"""One."""\nfrom .shared import _Shared as S\n\n\nclass One(S):\n    presets = {"a": {}}\n\n\n'
    "def helper():\n    pass\n",
    "pretrain/y/second.py": '"""Two."""\nfrom .shared import _Shared\n\n\n'
    'class Two(_Shared):\n    presets = {"b": {}, "c": {}}\n',
}


def test_a_dropped_folder_may_have_parts_and_bases_in_other_files(drop):
    drop(FOLDER)
    entry = catalog.entries("methods")["y"]
    assert [(part.title, part.class_name, part.presets) for part in entry.parts] == [
        ("Two.", "Two", ("b", "c")),
        ("One.", "One", ("a",)),
    ]
    assert "densebench.pretrain.y" not in sys.modules
    assert catalog.load("methods", "y").__name__ == "Two"
    assert catalog.load("methods", "y", "a").__name__ == "One"


BROKEN = {
    "syntax": "class Mine(:\n",
    "missing": "import a_module_that_is_not_there\nMine = a_module_that_is_not_there.make()\n",
    "raising": "raise RuntimeError('no\\nway')\n",
    "exiting": "import sys\nsys.exit(0)\n",
    "empty": "",
    "abroad": "from nowhere import Thing\n\n\nclass Mine(Thing):\n    pass\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_and_hides_nobody(drop, tmp_path, case):
    before = list(catalog.entries("protocols"))
    drop({"evals/broken.py": BROKEN[case]})
    entries, broken = catalog.scan("protocols")
    assert list(entries) == before and list(broken) == ["broken"]
    assert "broken.py" in broken["broken"] and "\n" not in broken["broken"]
    done = command_line.call("ls", "protocols", folder=tmp_path)
    assert done.status == 0 and "incontext" in done.out
    [line] = done.err.splitlines()
    assert line.startswith("protocol broken is left out: ")
    assert "broken.py" in command_line.call("eval", "--protocol", "broken", "--dry-run", folder=tmp_path).error
    assert command_line.call("eval", "--protocol", "incontext", "--help", folder=tmp_path).status == 0


def test_an_entry_that_fails_on_import_is_listed_and_one_line_when_used(drop, tmp_path):
    drop({"evals/late.py": HEAD + 'import a_module_that_is_not_there\n\n\nclass Mine(InContext):\n    presets = {"p": {}}\n'})
    assert catalog.find("protocols", "late").presets == ("p",)
    done = command_line.call("eval", "--protocol", "late", "--backbone", "pixels:16", "--dataset", "scenes", folder=tmp_path)
    assert "late.py fails on import: ModuleNotFoundError" in done.error


def plug_in(folder, monkeypatch, **modules):
    (folder / "plug-1.0.dist-info").mkdir()
    points = "".join(f"{name} = {name}\n" for name in modules)
    (folder / "plug-1.0.dist-info" / "entry_points.txt").write_text(f"[densebench.evals]\n{points}gone = gone_module:Mine\n")
    (folder / "plug-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_plug_ins_that_fail_are_a_line_each(tmp_path, monkeypatch):
    good = HEAD + 'class Mine(InContext):\n    presets = {"p": {}}\n'
    plug_in(tmp_path, monkeypatch, plug_good=good, plug_bad="raise ImportError('needs another')\n")
    entries, broken = catalog.scan("protocols")
    assert entries["plug_good"].presets == ("p",) and "incontext" in entries
    assert set(broken) == {"plug_bad", "gone"}
    assert "names gone_module, which is not installed" in broken["gone"]
    assert "ImportError: needs another" in command_line.call("eval", "--protocol", "plug_bad", folder=tmp_path).error
    assert catalog.code_of("protocols", "plug_good")


def test_a_path_may_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/__init__.py").write_text("from .protocol import Mine\n")
    Path("mine/protocol.py").write_text(HEAD + 'class Mine(InContext):\n    presets = {"p": {}}\n')
    assert catalog.find("protocols", "./mine").presets == ("p",)
    assert catalog.load("protocols", "./mine/").__name__ == "Mine"
    code = catalog.code_of("protocols", "./mine")
    Path("mine/protocol.py").write_text(HEAD + 'class Mine(InContext):\n    presets = {"q": {}}\n')
    assert list(catalog.load("protocols", "./mine").presets) == ["q"]
    assert catalog.code_of("protocols", "./mine") != code
    with pytest.raises(UserError, match=r"elsewhere/ holds no __init__\.py|no file \./elsewhere/"):
        catalog.find("protocols", "./elsewhere/")


ODD = HEAD.replace("from __future__ import annotations\n\n", "") + (
    "from enum import Enum\nfrom pathlib import Path\nfrom typing import Literal, Optional\n\n"
    "FEW = 5\nOTHER = {'a': {}}\n\n\n"
    "class Tone(Enum):\n    WARM = 'warm'\n    COLD = 'cold'\n\n\n"
    "@dataclass(frozen=True)\nclass Mine(InContext):\n"
    "    presets: ClassVar[dict] = {**OTHER, **dict(b={'tone': 'cold'})}\n"
    "    few: int = setting(FEW, 'how many', maximum=2 * FEW)\n"
    "    tone: Tone = setting(Tone.WARM, 'which')\n"
    "    mode: Literal['x', 'y'] = setting('x', 'which')\n"
    "    sizes: tuple[Literal[1, 2], ...] = axis((1,), 'which')\n"
    "    where: Optional[Path] = setting(None, 'folder')\n"
    "    neighbours: tuple[int, ...] = (4,)\n"
)


@pytest.mark.parametrize("postponed", [True, False])
def test_what_is_not_written_out_is_read_from_the_class(drop, postponed):
    drop({"evals/odd.py": "from __future__ import annotations\n" * postponed + ODD})
    entry = catalog.find("protocols", "odd")
    assert entry.presets == ("a", "b")
    assert (flag(entry, "few").default, flag(entry, "few").maximum) == (5, 10)
    assert [flag(entry, name).metavar for name in ("tone", "mode", "sizes", "where")] == ["warm|cold", "x|y", "1|2", "PATH|none"]
    assert flag(entry, "neighbours").default == (4,) and flag(entry, "neighbours").minimum == 1
    kind = catalog.load("protocols", "odd", "b")
    made = options.build(kind, kind.presets["b"], {"mode": "y", "sizes": "1,2", "where": "a/b"})
    assert (made.tone.value, made.mode, made.sizes, made.where) == ("cold", "y", (1, 2), Path("a/b"))
    chosen = options.select(made, "setting")
    assert (chosen["tone"], chosen["where"], options.select(made, "axis")["sizes"]) == ("cold", "a/b", [1, 2])
    for name, value in {"tone": "hot", "mode": "z", "sizes": "3", "few": "11"}.items():
        with pytest.raises(UserError, match=f"--{name}"):
            options.build(kind, {}, {name: value})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("class Mine(InContext):\n    shade: int = setting(1, 'dark')\n", "Mine.shade has no effect: write @dataclass"),
        ("@dataclass(frozen=True)\nclass Mine(InContext):\n    neighbours = (4,)\n", "Mine.neighbours has no effect"),
        ("class A(InContext):\n    pass\n\n\nclass B(A):\n    pass\n", "A and B both have the preset"),
        ("class Mine(InContext):\n    presets = {}\n", "holds no class with presets that derives from Evaluator"),
        ("@dataclass(frozen=True)\nclass Mine(InContext):\n    shade: dict = setting(1, 'dark')\n", "is no type of an option"),
    ],
)
def test_what_would_have_no_effect_is_refused(drop, body, message):
    drop({"evals/vain.py": HEAD + body})
    with pytest.raises(UserError, match=message) as caught:
        catalog.find("protocols", "vain")
    assert "vain.py" in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_that_lacks_a_method_is_one_line(drop):
    head = "from densebench.evaluation.protocol import Evaluator\n\n\n"
    drop({"evals/part.py": head + 'class Part(Evaluator):\n    version = 1\n    presets = {"p": {}}\n'})
    assert catalog.find("protocols", "part").presets == ("p",)
    with pytest.raises(UserError, match=r"part\.py: Part lacks .*run"):
        catalog.load("protocols", "part")
