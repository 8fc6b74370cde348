"""What a record says of the code that made it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from densebench.results import provenance


def test_code_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    provenance.code.cache_clear()
    assert provenance.code()["commit"] is None
    provenance.code.cache_clear()


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
