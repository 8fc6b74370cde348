"""`densebench look`: backbones side by side on pictures without labels."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing
from densebench.cli.backbone_options import (
    Backbones,
    DataRoot,
    Debias,
    Layers,
    Mean,
    Names,
    PosEmbeds,
    Role,
    Std,
    Upsample,
    Weights,
    one_each,
)
from densebench.cli.config import Config
from densebench.results.terminal import terminal_width


def look(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|DATASET", help="Pictures at any depth, tar shards, frames of videos, or a data set.")
    ],
    backbone: Backbones = None,
    weights: Weights = None,
    name: Names = None,
    role: Role = "teacher",
    layer: Layers = None,
    pos_embed: PosEmbeds = None,
    mean: Mean = None,
    std: Std = None,
    debias: Debias = None,
    upsample: Upsample = None,
    images: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Look at these pictures, by path or file name; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many pictures; they are chosen to differ.")] = 12,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the choice, of K-means and of random: backbones.")] = 0,
    image_size: Annotated[
        int, typer.Option(metavar="PX", help="Pictures are resized to about PX x PX pixels, aspect kept.")
    ] = 448,
    clusters: Annotated[int, typer.Option(metavar="K", help="Clusters of K-means over the patches of all pictures.")] = 10,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Fit the PCA colours to the foreground alone; the background is black.")
    ] = False,
    video: Annotated[
        bool | None,
        typer.Option(
            "--video/--no-video",
            help="Whether the pictures of a folder are frames of a video; without it, their names and pixels decide.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write index.html and PNGs to.")] = Path("look"),
    data_root: DataRoot = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to run.", autocompletion=completing.words("auto", "cpu", "cuda"))
    ] = "auto",
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Look at backbones side by side on pictures without labels: one page of maps, costs and label-free measures."""
    from densebench.files.atomic import check_output
    from densebench.looking import table
    from densebench.looking.look import look as looked

    check_output(output / "index.html")
    seen = looked(
        source,
        backbone or [],
        weights=one_each(weights),
        name=one_each(name),
        layer=layer or "last",
        pos_embed=pos_embed or "auto",
        role=role,
        mean=mean,
        std=std,
        debias=debias,
        upsample=upsample,
        images=images or None,
        count=count,
        seed=seed,
        image_size=image_size,
        clusters=clusters,
        foreground=foreground,
        video=video,
        data_root=data_root,
        device=device,
        command=shlex.join(["densebench", *sys.argv[1:]]),
    )
    written = seen.save(output)
    width = terminal_width()
    if as_json:
        print(json.dumps(table.as_json(seen)))
    elif width is None:
        print(table.plain(seen))
    else:
        from rich.console import Console

        for part in table.tables(seen, width):
            Console().print(part)
    if not as_json:
        print(written[0])
    if table.problems(seen):
        raise typer.Exit(2)
