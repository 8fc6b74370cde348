"""`densebench segment`: label new pictures, learning from labelled ones."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from densebench import catalog
from densebench.cli import completing, entry_options
from densebench.cli.backbone_options import DataRoot, Debias, Layer, Mean, PosEmbed, Role, Std, Upsample
from densebench.cli.config import Config
from densebench.cli.config import given as config_given
from densebench.errors import UserError
from densebench.few_labels.labelling_options import labelling_flags
from densebench.flag import Flag

METHOD = "incontext"


def segment(
    context: typer.Context,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES...", help="Pictures: files, folders (at any depth), or one data set."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Labelled images: a folder, or one of `densebench ls datasets`.",
            autocompletion=completing.datasets,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="One of `densebench ls backbones`.", autocompletion=completing.backbones),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--method", "--protocol", metavar="NAME", help="incontext, linear, or another protocol that learns from labels."
        ),
    ] = METHOD,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Named settings of --method; without it the first.", autocompletion=completing.presets),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder that label maps are written to.")] = Path("segmented"),
    overlays: Annotated[
        bool, typer.Option("--overlays/--no-overlays", help="Draw the classes over each picture, in translucent colours.")
    ] = True,
    split: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Split of the labels to learn from; repeatable; without it all.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights for timm:NAME: safetensors or a state dict.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What segment.json calls the backbone.")] = None,
    role: Role = "teacher",
    layer: Layer = "last",
    pos_embed: PosEmbed = "auto",
    mean: Mean = None,
    std: Std = None,
    debias: Debias = None,
    upsample: Upsample = None,
    data_root: DataRoot = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Label at most N pictures, evenly spaced.")] = None,
    config: Config = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the weights of random: backbones.")] = 0,
    rerun: Annotated[bool, typer.Option("--rerun", help="Label all pictures again, and replace what the folder holds.")] = False,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this message, with the options of --method.")] = False,
) -> None:
    """Label new pictures, learning from labelled ones: write a label map and an overlay of each."""
    entry = catalog.find("protocols", protocol)
    if show_help:
        _help(context, entry, preset)
        return
    catalog.check_preset(entry, protocol, preset)
    flags = labelling_flags(entry.part(preset).flags())
    pictures, words = _parted(images or [], flags)
    context.args = [*words, *context.args]
    given = config_given(context, flags)
    for value, what in ((pictures, "IMAGES"), (labels, "--labels NAME"), (backbone, "--backbone SPEC")):
        if not value:
            raise UserError(f"{what} is missing: densebench segment IMAGES --labels FOLDER --backbone SPEC")

    from densebench.few_labels.segmenting import segment as label

    segmented = label(
        pictures, labels or "", backbone or "", protocol, preset=preset, output=output, overlays=overlays, split=split or None,
        weights=weights, name=name, role=role, layer=layer, pos_embed=pos_embed, mean=mean, std=std, debias=debias,
        upsample=upsample, data_root=data_root, limit=limit, seed=seed, rerun=rerun,
        command=shlex.join(["densebench", *sys.argv[1:]]), **given,
    )  # fmt: skip
    print(segmented)
    if segmented.failed:
        raise typer.Exit(2)


def _parted(words: Sequence[str], flags: Sequence[Flag]) -> tuple[list[str], list[str]]:
    """Return the pictures, and the options of the protocol with their values, which stand among them on the line."""
    by_spelling = {flag.spelling: flag for flag in flags}
    pictures, options = [], []
    coming = iter(words)
    for word in coming:
        if not word.startswith("--"):
            pictures.append(word)
            continue
        options.append(word)
        flag = by_spelling.get(word)
        if flag is not None and not flag.is_switch:
            options += [value for value in (next(coming, None),) if value is not None]
    return pictures, options


def _help(context: typer.Context, entry: catalog.Entry, preset: str | None) -> None:
    part = entry.part(preset)
    print(context.get_help())
    print(f"{entry_options.heading(entry.title, part.presets)}\n{entry_options.describe(labelling_flags(part.flags()))}")
