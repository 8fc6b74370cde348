"""Where a record comes from: the code and the machine that made it, and the process that writes it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densebench.files.atomic import digest
from densebench.files.locks import process_lives
from densebench.user_code import find_module, folder_code

BUILT = "densebench._built"  # the module that is written when a wheel is built from a checkout, with its commit

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "pandas", "pillow", "faiss-cpu", "scann", "mmsegmentation",
    "mmengine", "mmcv-lite", "mmcv", "onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv", "pycocotools",
)  # fmt: skip

REHEARSAL = "DENSEBENCH_REHEARSAL"
"""The environment variable that marks the records of a process as those of a rehearsal."""


def mark_of_rehearsal() -> dict[str, Any]:
    """Return what the `run` of a record says in a rehearsal of a table: `{"rehearsal": True}`; {} in any other run."""
    return {"rehearsal": True} if os.environ.get(REHEARSAL) == "1" else {}


def is_rehearsal(record: Mapping[str, Any]) -> bool:
    """Return whether a rehearsal of a table made a record; such a one enters no table."""
    return bool(record["run"].get("rehearsal"))


def new_owner() -> dict[str, Any]:
    """Return what names this run of this process as the writer of a record."""
    return {"id": uuid.uuid4().hex, "pid": os.getpid(), "host": platform.node()}


def writer_lives(run: dict[str, Any]) -> bool | None:
    """Return whether the process that a record's `run` names as its writer is alive; None where that cannot be known."""
    owner = run.get("owner")
    if owner is None or owner["host"] != platform.node():
        return None
    return process_lives(owner["pid"])


@functools.cache
def code() -> dict[str, Any]:
    """Return the version of densebench, the commit that runs, and whether sources differ from it (None where that is unknown).

    The commit is that of the checkout, else the one that pip installed from (PEP 610), else the one that the wheel was built
    from; where none is known, it is "sources-" and a digest of the installed files.
    """
    return {"densebench": importlib.metadata.version("densebench"), **(_checkout() or _installed())}


def _checkout() -> dict[str, Any] | None:
    """Return commit and state of the checkout that this file lies in; None where it lies in none."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    inside = git("ls-files", "--error-unmatch", __file__) is not None
    if not (inside and (commit := git("rev-parse", "HEAD"))):
        return None
    # Only what runs: the records that lie in a checkout would make every run after the first one dirty.
    sources = git("status", "--porcelain", "--", ":(top)*.py", ":(top,exclude)tests")
    return {"commit": commit, "dirty": bool(sources)}


def _installed() -> dict[str, Any]:
    """Return commit and state of an installed package."""
    origin = json.loads(importlib.metadata.distribution("densebench").read_text("direct_url.json") or "{}")
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return {"commit": commit, "dirty": False}
    if not origin.get("dir_info", {}).get("editable") and find_module(BUILT)[0] is not None:
        built: Any = importlib.import_module(BUILT)
        if built.COMMIT:
            return {"commit": built.COMMIT.removeprefix("g"), "dirty": built.DIRTY}
    folders = [
        Path(folder) for name in ("densebench", "densebench.evals", "densebench.pretrain") for folder in find_module(name)[1]
    ]
    return {"commit": f"sources-{digest(list(map(folder_code, folders)), 16)}", "dirty": None}


@functools.cache
def environment() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on, and the machine."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**versions, "system": f"{platform.system()} {platform.machine()}", "cpu": _cpu()}


def _cpu() -> str:
    """Return the model of the processor; without /proc, what the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
