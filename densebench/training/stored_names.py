"""Names in stored files: loading what they stand for must not run any code but densebench's own.

The files in a folder of runs may come from anybody. Names of built-in data sets, folders, checkpoints and timm's architectures
are taken from there; a Python file, a hub repository, a transformers model and an installed plug-in are loaded only where the
user names them on the command line.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from densebench.datasets.catalog import GROUP, built_in

INERT = ("folder", "frames", "ckpt", "timm", "random", "pixels")
"""Kinds of spec whose loading reads files and runs nothing of theirs."""


def runs_code(name: str) -> bool:
    """Return whether loading what a name or spec stands for may run code that is not densebench's own."""
    if name.rstrip("0123456789").removesuffix(":").endswith(".py"):  # a limit may follow a data set: ./mine.py:200
        return True
    kind, colon, _ = name.partition(":")
    if kind in INERT or kind in built_in():
        return False
    groups = (GROUP, "densebench.backbones")
    plugins = {point.name for group in groups for point in importlib.metadata.entry_points(group=group)}
    return bool(colon) or kind in plugins


def with_code(about: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names in a run's facts (run.json) whose loading may run code, by option (data, init, probe, ...).

    If one of several data sets may run code, all are returned, since they are given together.
    """
    settings = {**about.get("settings", {}), **about.get("runtime", {})}
    named = {"data": list(about["data"]["specs"]), "init": [about.get("init")], **{key: [own] for key, own in settings.items()}}
    return {key: values for key, values in named.items() if any(isinstance(value, str) and runs_code(value) for value in values)}


def as_flags(named: Mapping[str, list[str]]) -> list[str]:
    """Return the words that give the names again on the command line."""
    return [word for key, values in named.items() for value in values for word in (f"--{key.replace('_', '-')}", value)]
