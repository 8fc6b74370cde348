"""The request of a run: the data to train on, the backbone to start from, and how it is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.options import PATH, check_types


@dataclass(frozen=True, init=False)
class Data:
    """Images to train on: names of data sets or image folders, and the folder that holds the data sets (`--data-root`)."""

    specs: tuple[str, ...]
    root: Path | None

    def __init__(self, specs: Sequence[str | Path] | str | Path = (), root: str | Path | None = None) -> None:
        several = (specs,) if isinstance(specs, str | Path) else specs
        if not isinstance(several, Sequence) or not all(isinstance(spec, str | Path) for spec in several):
            raise UserError(f"data={specs!r}: give the name of a data set, a folder of images, or a list of them")
        object.__setattr__(self, "specs", tuple(str(spec) for spec in several))
        object.__setattr__(self, "root", as_path("data_root", root))

    @classmethod
    def of(cls, value: Any) -> Data:
        """Return the data that a name, a path or a list of them stands for. Raises UserError for anything else."""
        return value if isinstance(value, cls) else cls(value)


@dataclass(frozen=True, init=False)
class Init:
    """A backbone to start from: a spec, timm:NAME or ckpt:DIR, or the path of a run; and a file of weights beside timm:NAME."""

    spec: str | None
    weights: Path | None

    def __init__(self, spec: str | Path | None = None, weights: str | Path | None = None) -> None:
        if spec is not None and not isinstance(spec, str | Path):
            raise UserError(f"init={spec!r}: give timm:NAME, ckpt:DIR or the path of a run, or Init(...) with a file of weights")
        object.__setattr__(self, "spec", f"ckpt:{spec}" if isinstance(spec, Path) else spec)
        object.__setattr__(self, "weights", as_path("weights", weights))

    @classmethod
    def of(cls, value: Any) -> Init:
        """Return the backbone that a spec or a path stands for. Raises UserError for anything else."""
        return value if isinstance(value, cls) else cls(value)


@dataclass(frozen=True)
class Launch:
    """How a run was started: the number of processes, and the command, which is written to `run.json`."""

    processes: int = 1
    command: str = ""


def as_path(name: str, value: Any) -> Path | None:
    """Return a path that was given as a text or a `Path`; None stays. Raises UserError for anything else."""
    check_types(PATH, **{name: value})
    return None if value is None else Path(value)
