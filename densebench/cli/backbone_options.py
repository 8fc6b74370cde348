"""The options by which commands name backbones and data, and how backbones are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing

Backbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", metavar="SPEC", help="One of `densebench ls backbones`; repeatable.", autocompletion=completing.backbones
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="Weights for timm:NAME: safetensors or a state dict; if given, one for each --backbone (none: no file).",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="TEXT", help="Name in tables and on pages; if given, one for each --backbone."),
]
Role = Annotated[
    str,
    typer.Option(
        metavar="teacher|student", help="Which network of a checkpoint.", autocompletion=completing.words("teacher", "student")
    ),
]
WHICH_LAYER = "Features: last, raw (before the final norm), block numbers (8,9,10,11 are joined), key, query, value or attention"
HOW_RESIZED = "How position embeddings are resized; auto: as the code that trained the checkpoint does"
Layer = Annotated[str, typer.Option(help=f"{WHICH_LAYER}.")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help=f"{WHICH_LAYER}; one for all, or one for each --backbone.")]
PosEmbed = Annotated[str, typer.Option(help=f"{HOW_RESIZED}.")]
PosEmbeds = Annotated[list[str] | None, typer.Option("--pos-embed", help=f"{HOW_RESIZED}; one for all, or one for each.")]
Mean = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Mean colour that images are normalised with; without it that of the pretraining."),
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="Standard deviation of the colours, likewise.")]
Debias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Project N positional directions out of the features (those of noise images)."),
]
Upsample = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:FACTOR]",
        help="Make the grid of features finer: nearest, bilinear, joint-bilateral, guided, ./file.py or hub:REPO:ENTRY.",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the data sets; without it $DENSEBENCH_DATA, else ./data.")
]


def one_each(values: list[str] | None) -> list[str | None] | None:
    """Return the values of an option, one for each --backbone; the word none among several means no value."""
    return None if not values else [None if value == "none" and len(values) > 1 else value for value in values]
