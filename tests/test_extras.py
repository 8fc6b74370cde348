"""Optional packages: what needs one that is missing says how to install it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from densebench import extras
from densebench.errors import UserError

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


@pytest.fixture(params=sorted(extras.EXTRAS))
def missing(request, monkeypatch):
    """The name of an optional package that cannot be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == request.param]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == request.param else object())
    return request.param


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(missing):
    line = rf"^the purpose needs {missing}, .*: pip install 'densebench\[{extras.EXTRAS[missing]}\]'$"
    with pytest.raises(UserError, match=line):
        extras.require(f"{missing}.inner", "the purpose")


def test_a_package_that_cannot_be_imported_is_one_line_with_its_reason(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "simplejpeg"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('libjpeg.so:\\nno such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^the purpose needs simplejpeg, .*libjpeg.so: no such file.*'densebench\[fast\]'$"):
        extras.require("simplejpeg", "the purpose")


def test_a_package_that_is_there_is_imported():
    assert extras.require("networkx", "the purpose").__name__ == "networkx"


def test_every_extra_installs_its_package_and_all_has_every_extra():
    for package, extra in extras.EXTRAS.items():
        assert any(line.startswith(package) for line in PROJECT["optional-dependencies"][extra])
    [line] = PROJECT["optional-dependencies"]["all"]
    asked_for = {"energy"}  # NVML is used where it is there, and never needed
    assert set(line.removeprefix("densebench[").removesuffix("]").split(",")) == set(extras.EXTRAS.values()) | asked_for


def test_the_base_installation_has_none_of_them():
    assert not [line for line in PROJECT["dependencies"] if line.startswith(tuple(extras.EXTRAS))]


def test_the_packages_that_densebench_stands_on_are_in_the_base_installation():
    base = [line.replace("=", " ").replace(">", " ").split()[0] for line in PROJECT["dependencies"]]
    names = {"torch", "timm", "mmsegmentation", "mmengine", "scann", "faiss-cpu", "scikit-learn", "pandas", "typer", "rich"}
    assert names <= set(base)
