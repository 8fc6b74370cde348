"""Where a record comes from: the code and the machine that made it, and the process that writes it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import uuid
from pathlib import Path
from typing import Any

from densebench.files.locks import process_lives

PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "pillow", "faiss-cpu", "scann", "mmsegmentation", "mmengine",
    "mmcv-lite", "pycocotools",
)  # fmt: skip


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
    """Return the version of densebench, and the commit of its checkout if it runs from one."""
    version = importlib.metadata.version("densebench")
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    inside = git("ls-files", "--error-unmatch", __file__) is not None
    commit = git("rev-parse", "HEAD") if inside else None
    # Only what runs: the records that lie in a checkout would make every run after the first one dirty.
    sources = git("status", "--porcelain", "--", ":(top)*.py", ":(top,exclude)tests")
    return {"densebench": version, "commit": commit, "dirty": bool(sources) if commit else None}


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
