"""`densebench eval`: score backbones on data sets by a protocol."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench import catalog, options
from densebench.cli import settings
from densebench.errors import UserError, unknown


def evaluate(
    context: typer.Context,
    protocol: Annotated[str | None, typer.Option(help="Name, names with commas, or ./file.py (densebench ls).")] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings; the protocol's first if not given.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="May be repeated; `densebench ls backbones`.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="safetensors or a state dict for timm:NAME.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What tables call the backbone.")] = None,
    role: Annotated[str, typer.Option(metavar="teacher|student", help="Which network of a checkpoint.")] = "teacher",
    layer: Annotated[str, typer.Option(help="last, block numbers (8,9,10,11: joined), key, query, value, attention.")] = "last",
    pos_embed: Annotated[
        str, typer.Option(help="How position embeddings are resized; auto: as the checkpoint's origin.")
    ] = "auto",
    dataset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated; `densebench ls datasets`.")] = None,
    data_root: Annotated[Path | None, typer.Option(metavar="DIR", help="Else $DENSEBENCH_DATA, else ./data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many images (or videos) a split; never enters a table.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where records go.")] = Path("results"),
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML of the protocol's options; flags come first.")] = None,
    seed: Annotated[int, typer.Option(help="Of the initialisation of random: backbones.")] = 0,
    rerun: Annotated[bool, typer.Option("--rerun", help="Score again what a record holds already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One record a line on stdout.")] = False,
    show_help: Annotated[bool, typer.Option("--help", help="Show this message, with the options of --protocol.")] = False,
) -> None:
    """Score the patch features of backbones by a protocol, and keep a record of each run."""
    if show_help:
        _help(context, protocol and protocol.partition(",")[0], preset and preset.partition(",")[0])
        return
    if protocol is None:
        raise UserError(f"name a protocol: --protocol {'|'.join(catalog.entries('protocols'))}")
    entries = _entries(protocol, preset)
    given: dict[str, Any] = options.read_toml(config) if config else {}
    own = [spelling for parameter in context.command.params for spelling in parameter.opts]
    flags = {flag.name: flag for _, _, entry in reversed(entries) for flag in entry.flags()}  # of the first that has it
    given |= settings.parse(context.args, flags.values(), own)

    from densebench.evaluation.run import Backbones
    from densebench.evaluation.run import evaluate as run
    from densebench.results.summary import summary

    backbones = Backbones(backbone or [], weights, name, role=role, layer=layer, pos_embed=pos_embed, seed=seed)
    asked: dict[str, Any] = {"limit": limit, "results": results, "rerun": rerun, "dry_run": dry_run, "data_root": data_root}
    asked |= {"backbones": backbones, "datasets": dataset or [], "command": shlex.join(["densebench", *sys.argv[1:]])}
    gpus = flags["gpus"].read(given["gpus"]) if "gpus" in flags and "gpus" in given else 1
    if gpus > 1 and len(entries) > 1:
        raise UserError(f"--gpus {gpus} goes with one protocol; {len(entries)} are named")
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        from densebench.distributed import launch

        with contextlib.redirect_stderr(io.StringIO()):  # what is wrong is said once, here
            list(run(protocol, preset=preset, **{**asked, "dry_run": True}, **given))
        raise typer.Exit(launch(gpus, sys.argv[1:]))
    for one, chosen, own_options in _shares(entries, flags, given):
        for record in run(one, preset=chosen, **asked, **own_options):
            print(json.dumps(record) if as_json else summary(record), flush=True)


def _shares(
    entries: list[tuple[str, str | None, catalog.Entry]], flags: dict[str, options.Flag], given: dict[str, Any]
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Each protocol with its preset and the options that it has. What is wrong is said before the first one runs.

    Raises UserError for an option that none has, and for a value that one of those that have it does not take.
    """
    found = []
    for key in given:
        if key not in flags:
            raise unknown("option", key, flags, "the same command with --help lists them")
    for name, preset, entry in entries:
        own = {flag.name: flag for flag in entry.flags() if flag.name in given}
        for key, flag in own.items():
            flag.read(given[key])
        found.append((name, preset, {key: given[key] for key in own}))
    return found


def _entries(protocols: str, presets: str | None) -> list[tuple[str, str | None, catalog.Entry]]:
    """Each protocol of a list such as kmeans,incontext,linear with its preset and its part of the catalogue.

    Raises UserError where presets are given that do not pair with them.
    """
    names = [name.strip() for name in protocols.split(",")]
    wanted: list[str | None] = [*presets.split(",")] if presets else [None] * len(names)
    if len(wanted) != len(names):
        raise UserError(f"--preset {presets}: {len(names)} protocols take {len(names)} presets, in their order, or none")
    found = []
    for name, preset in zip(names, wanted, strict=True):
        entry = catalog.find("protocols", name)
        if preset is not None and preset not in entry.all_presets:
            raise unknown("preset", preset, entry.all_presets, f"{name} has {', '.join(entry.all_presets)}")
        found.append((name, preset, entry.part(preset)))
    return found


def _help(context: typer.Context, protocol: str | None, preset: str | None) -> None:
    print(context.get_help())
    if protocol is None:
        print("Every protocol has options of its own: densebench eval --protocol NAME --help")
        return
    whole = catalog.find("protocols", protocol)
    entry = whole.part(preset)
    print(f"{entry.title}\nPresets: {', '.join(entry.presets)}\n{settings.describe(entry.flags())}")
    if others := [name for name in whole.all_presets if name not in entry.presets]:
        print(f"\n{protocol} also has the presets {', '.join(others)}, with options of their own:")
        print(f"densebench eval --protocol {protocol} --preset NAME --help")
