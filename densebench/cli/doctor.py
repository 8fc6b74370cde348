"""`densebench doctor`: is this machine ready, and what is missing."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from densebench.console import one_line


def doctor(data_root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the data sets are.")] = None) -> None:
    """Check packages, device, cache and data sets; status 1 where something that is needed does not work."""
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        "torch": lambda: _version("torch"),
        "device": _device,
        "torchvision": _torchvision,
        "timm": lambda: _version("timm"),
        "faiss": lambda: _version("faiss"),
        "scann": lambda: _version("scann"),
        "mmseg": _mmseg,
        "cache": _cache,
        "data sets": lambda: _datasets(data_root),
    }
    bad = 0
    for name, check in checks.items():
        try:
            print(f"ok    {name:12} {check()}")
        except Exception as error:  # whatever is wrong with a package is what this command is for
            optional = name == "scann"
            bad += not optional
            print(f"{'-     ' if optional else 'BAD   '}{name:12} {type(error).__name__}: {one_line(str(error))}")
    raise typer.Exit(1 if bad else 0)


def _mmseg() -> str:
    from densebench.bridges.mmsegmentation.importing import family

    return family()


def _version(name: str) -> str:
    from importlib.metadata import version

    from densebench.torchvision_ops import make_importable

    make_importable()
    importlib.import_module(name)
    return version({"faiss": "faiss-cpu"}.get(name, name))


def _device() -> str:
    from densebench.processes import describe, resolve_device

    return describe(resolve_device("auto"))


def _torchvision() -> str:
    return _version("torchvision")


def _cache() -> str:
    from densebench.files.atomic import cache_root, write_text
    from densebench.files.cache import usage

    write_text(cache_root() / "writable", "")
    (cache_root() / "writable").unlink()
    return f"{cache_root()}, {sum(store.bytes for store in usage(cache_root())) / 2**20:.0f} MiB"


def _datasets(root: Path | None) -> str:
    from densebench.datasets.catalog import present

    return ", ".join(present(root))
