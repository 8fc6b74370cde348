"""Resuming a killed run of MMSegmentation's Runner from the undamaged ones of its states and curves."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np

from densebench.bridges.mmsegmentation.validation import validations
from densebench.console import warn
from densebench.files.atomic import Damaged, read_checked, remove, unreadable, write_checked, write_text

CURVES = "curves.json"
Points = list[tuple[int, list[float]]]
"""Points of the curves: an iteration, and the mean loss of every learning rate since the previous point."""


def last_iteration(folder: Path) -> int:
    """Return the iteration of the last saved state of a run; 0 without one."""
    last = folder / "last_checkpoint"
    match = re.search(r"iter_(\d+)\.pth", last.read_text()) if last.exists() else None
    return int(match.group(1)) if match else 0


def has_diverged(folder: Path) -> bool:
    """Return whether every learning rate has diverged by the last point of the curves."""
    points = read_curves(folder)
    return bool(points) and not np.isfinite(points[-1][1]).any()


def read_curves(folder: Path) -> Points:
    """Return the points of the curves; an empty list where there is no file."""
    return json.loads(read_checked(folder / CURVES) or b"[]")


def write_curves(folder: Path, points: Points) -> None:
    """Write the points of the curves."""
    write_checked(folder / CURVES, json.dumps(points).encode())


def discard_damaged(folder: Path) -> None:
    """Remove damaged states, so that the newest undamaged one is resumed; where another file is damaged, remove everything."""
    for path in sorted(folder.glob("iter_*.pth"), key=_iteration, reverse=True):
        if _is_whole(path):
            write_text(folder / "last_checkpoint", str(path))
            break
        warn(f"{path} is not whole; training resumes from an earlier state")
        remove(path)
    else:
        remove(folder / "last_checkpoint")
    has_curves = (folder / CURVES).exists()
    try:
        validations(folder)
        if has_curves and not read_curves(folder):
            raise Damaged(folder / CURVES, "its checksum does not match")
    except Damaged as damage:
        warn(f"{damage}; training begins anew")
        for path in folder.iterdir():
            remove(path)


def _iteration(path: Path) -> int:
    return int(path.stem.removeprefix("iter_"))


def _is_whole(path: Path) -> bool:
    """Return whether a state is as it was written. torch saves zip archives with checksums, but does not check them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception:  # damaged bytes fail in many ways: BadZipFile, NotImplementedError, zlib.error, ...
        return False
