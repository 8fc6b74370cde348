"""The wheel: one import name, everything in it, and it runs where nothing of the checkout is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.slow


def copy_of_the_sources(folder: Path) -> None:
    for name in ("densebench", "evals", "pretrain"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_built.py"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)


def built(source: Path, out: Path) -> Path:
    """Build the wheel of a copy of the sources and return its path."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    copy_of_the_sources(source)
    return built(source, tmp_path_factory.mktemp("wheel"))


def test_its_only_import_name_is_densebench(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"densebench"}


def test_it_holds_every_module_and_the_published_numbers(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, target in (("densebench", "densebench"), ("evals", "densebench/evals"), ("pretrain", "densebench/pretrain")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{target}/{path.relative_to(ROOT / folder)}" in names
    assert "densebench/results/published/published.csv" in names


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment that holds the wheel and borrows its dependencies, away from the checkout: the folder of its programs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = {name: sysconfig.get_path(name, vars={"base": str(folder)}) for name in ("purelib", "scripts")}
    install = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--python",
        f"{paths['scripts']}/python",
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, wheel], check=True)
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(paths["purelib"]) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return Path(paths["scripts"])


def output(*command, folder) -> str:
    """Return what a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_runs_in_an_environment_of_its_own(environment, tmp_path):
    listed = output(environment / "densebench", "ls", folder=tmp_path)
    assert "incontext" in listed and "voc" in listed
    code = "import densebench.evals.incontext.protocol as m; print(m.__file__)"
    assert str(environment.parent) in output(environment / "python", "-W", "ignore", "-c", code, folder=tmp_path)


def test_a_strictly_typed_script_of_a_user_passes(environment, tmp_path):
    script, mypy = ROOT / "tests" / "typed_script.py", [sys.executable, "-m", "mypy", "--strict"]
    output(*mypy, "--python-executable", environment / "python", "--cache-dir", tmp_path, script, folder=tmp_path)


def test_a_type_checker_knows_which_names_are_public(environment, tmp_path):
    (tmp_path / "script.py").write_text("import densebench\n\ndensebench.nothing_like_that\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment / "python", "--cache-dir", tmp_path]
    done = subprocess.run([*command, tmp_path / "script.py"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert 'Module has no attribute "nothing_like_that"' in done.stdout


def test_records_of_an_installed_wheel_name_the_code_that_made_them(environment, tmp_path):
    code = "from densebench.results.provenance import code; print(code()['commit'])"
    assert re.fullmatch("sources-[0-9a-f]{16}|[0-9a-f]{40}", output(environment / "python", "-c", code, folder=tmp_path).strip())


def test_a_wheel_that_is_built_in_a_repository_knows_its_commit(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git")
    copy_of_the_sources(tmp_path)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = output(*git, "rev-parse", "HEAD", folder=tmp_path).strip()
    names = zipfile.ZipFile(built(tmp_path, tmp_path / "dist"))
    assert f"COMMIT, DIRTY = 'g{commit}', False" in names.read("densebench/_built.py").decode()
