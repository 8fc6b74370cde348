"""Learning curves, and other lines, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from densebench.files.atomic import replacing


class Curve(Protocol):
    """Losses, and the moments they belong to, each a word and a number such as "epoch 3"."""

    @property
    def losses(self) -> np.ndarray: ...
    @property
    def moments(self) -> Sequence[str]: ...


def draw_curves(path: Path, curves: Mapping[float, Curve]) -> None:
    """Write a PNG with the losses of each learning rate over time. Those that are not finite are left out and named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    unit = ""
    for rate, curve in curves.items():
        unit = curve.moments[0].partition(" ")[0]
        at = np.array([float(moment.partition(" ")[2]) for moment in curve.moments])
        finite = np.isfinite(curve.losses)
        name = f"{rate:g}" if finite.all() else f"{rate:g} (diverged)"
        axes.plot(at[finite], curve.losses[finite], label=name, marker=".")
    axes.set(xlabel=unit, ylabel="loss in nats")
    axes.grid(alpha=0.3)
    axes.legend(title="learning rate")
    with replacing(path) as part:
        figure.savefig(part, format="png")


def line_chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], along: str, up: str) -> Image.Image:
    """Return one line for each name: where its points are along the horizontal axis, and how high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, (at, values) in lines.items():
        axes.plot(at, values, label=name, marker="." if len(at) < 50 else None)
    axes.set(xlabel=along, ylabel=up)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
