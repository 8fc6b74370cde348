"""The wheel: one import name, everything in it, and it runs where nothing of the checkout is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("densebench", "evals", "pretrain"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


def test_its_only_import_name_is_densebench(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"densebench"}


def test_it_holds_every_module_and_the_published_numbers(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, target in (("densebench", "densebench"), ("evals", "densebench/evals"), ("pretrain", "densebench/pretrain")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{target}/{path.relative_to(ROOT / folder)}" in names
    assert "densebench/results/published/published.csv" in names


def test_it_runs_in_an_environment_of_its_own(wheel, tmp_path):
    """Installed into an empty environment that borrows the dependencies, away from the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    paths = {name: sysconfig.get_path(name, vars={"base": str(tmp_path / "env")}) for name in ("purelib", "scripts")}
    install = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(paths["purelib"]) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    done = subprocess.run([f"{paths['scripts']}/densebench", "ls"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "incontext" in done.stdout
    assert "voc" in done.stdout
    code = "import densebench.evals.incontext.protocol as m; print(m.__file__)"
    where = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert str(tmp_path / "env") in where
