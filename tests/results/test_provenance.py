"""What a record says of the code that made it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import types

import pytest

from densebench.results import provenance


@pytest.fixture
def installed(monkeypatch):
    """A function that makes densebench look installed, with the text of its direct_url.json or None, and returns `code()`."""

    def code(direct_url: str | None, built: tuple[str | None, bool] | None = None):
        monkeypatch.setenv("PATH", "/nowhere")  # no git
        read = lambda name: direct_url if name == "direct_url.json" else None  # noqa: E731
        distribution = types.SimpleNamespace(version="1.2.3", read_text=read)
        monkeypatch.setattr(provenance.importlib.metadata, "distribution", lambda name: distribution)
        module = types.ModuleType(provenance.BUILT)
        module.__file__ = "_built.py" if built else None
        module.COMMIT, module.DIRTY = built or (None, False)
        monkeypatch.setitem(sys.modules, provenance.BUILT, module)
        return provenance.code.__wrapped__()

    return code


def test_an_installation_from_a_repository_knows_its_commit(installed):
    origin = {"url": "https://example.org/densebench.git", "vcs_info": {"vcs": "git", "commit_id": "ab" * 20}}
    assert installed(json.dumps(origin)) == {"densebench": "1.2.3", "commit": "ab" * 20, "dirty": False}


@pytest.mark.parametrize("origin", [None, '{"url": "file:///densebench.whl", "archive_info": {}}', '{"dir_info": {}}'])
def test_a_wheel_knows_the_commit_it_was_built_from(installed, origin):
    code = installed(origin, ("g" + "cd" * 20, True))
    assert (code["commit"], code["dirty"]) == ("cd" * 20, True)


def test_an_editable_installation_ignores_what_an_older_build_wrote(installed):
    code = installed('{"dir_info": {"editable": true}}', ("g" + "cd" * 20, False))
    assert code["commit"].startswith("sources-")


def test_without_a_commit_the_sources_are_digested(installed, monkeypatch):
    code = installed(None)
    assert re.fullmatch("sources-[0-9a-f]{16}", code["commit"]) and code["dirty"] is None
    assert installed(None)["commit"] == code["commit"]
    monkeypatch.setattr(provenance, "folder_code", lambda folder: "another")
    assert installed(None)["commit"] != code["commit"]


def test_only_changed_sources_make_a_checkout_dirty(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in ("densebench/provenance.py", "evals/incontext.py", "tests/test_a.py", "results/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    as_someone = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*as_someone, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "densebench" / "provenance.py"))
    changes = [("results/b.json", False), ("results/a.json", False), ("tests/test_a.py", False), ("evals/incontext.py", True)]
    for name, dirty in changes:
        (tmp_path / name).write_text("2\n")
        code = provenance.code.__wrapped__()
        assert len(code["commit"]) == 40
        assert code["dirty"] is dirty, name
