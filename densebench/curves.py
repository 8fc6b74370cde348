"""Curves over the course of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from densebench.files import replacing


def draw_curves(path: Path, curves: Mapping[str, np.ndarray], x: str, y: str, at: np.ndarray | None = None) -> None:
    """Write a PNG with one line a learning rate: values over steps 1, 2, ... or over `at`. What is not finite is left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        steps = np.arange(1, len(values) + 1) if at is None else at
        finite = np.isfinite(values)
        axes.plot(steps[finite], np.asarray(values)[finite], label=name if finite.all() else f"{name} (diverged)", marker=".")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(title="learning rate")
    with replacing(path) as part:
        figure.savefig(part, format="png")
