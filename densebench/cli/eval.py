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

from densebench import catalog
from densebench.cli import completing, entry_options
from densebench.cli.backbone_options import (
    Backbones,
    DataRoot,
    Debias,
    Layer,
    Mean,
    Names,
    PosEmbed,
    Role,
    Std,
    Upsample,
    Weights,
    one_each,
)
from densebench.cli.config import Config
from densebench.cli.config import given as config_given
from densebench.cli.ls import listed
from densebench.errors import UserError
from densebench.results.terminal import wrapped


def evaluate(
    context: typer.Context,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name of `densebench ls protocols`, ./file.py, or several with commas.",
            autocompletion=completing.protocols,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Named settings; without it the protocol's first.", autocompletion=completing.presets),
    ] = None,
    backbone: Backbones = None,
    weights: Weights = None,
    name: Names = None,
    role: Role = "teacher",
    layer: Layer = "last",
    pos_embed: PosEmbed = "auto",
    mean: Mean = None,
    std: Std = None,
    debias: Debias = None,
    upsample: Upsample = None,
    corrupt: Annotated[
        str | None,
        typer.Option(metavar="NAME[:LEVEL]", help="Corrupt the scored images, such as fog:3; without a level, 3."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One of `densebench ls datasets`; repeatable.", autocompletion=completing.datasets),
    ] = None,
    data_root: DataRoot = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use at most so many images or videos of each split; such scores enter no table."),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder that records are written to.")] = Path("results"),
    config: Config = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the weights of random: backbones.")] = 0,
    rerun: Annotated[bool, typer.Option("--rerun", help="Score again what a record already holds.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="i/n", help="Score the i-th of n parts of each record; `densebench merge` joins them."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print records as JSON, one a line.")] = False,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this message, with the options of --protocol.")] = False,
) -> None:
    """Score the patch features of backbones by a protocol, and write a record of each run."""
    if show_help:
        _help(context, protocol and protocol.partition(",")[0], preset and preset.partition(",")[0])
        return
    if protocol is None:
        raise UserError(f"name a protocol: --protocol {'|'.join(catalog.names('protocols'))}")
    entries = _entries(protocol, preset)
    flags = {flag.name: flag for _, _, entry in reversed(entries) for flag in entry.flags()}  # the first protocol that has it
    given = config_given(context, list(flags.values()))

    from densebench.evaluation.plan import planned
    from densebench.evaluation.run import steps
    from densebench.results.result import Failure
    from densebench.results.summary import summary

    request: dict[str, Any] = {
        "limit": limit, "results": results, "rerun": rerun, "dry_run": dry_run, "data_root": data_root, "role": role,
        "layer": layer, "pos_embed": pos_embed, "seed": seed, "mean": mean, "std": std,
        "debias": debias, "upsample": upsample, "corrupt": corrupt,
        "weights": one_each(weights), "name": one_each(name),
        "command": shlex.join(["densebench", *sys.argv[1:]]), "shard": shard,
    }  # fmt: skip
    shares = _shares(entries, given)
    gpus = flags["gpus"].read(given["gpus"]) if "gpus" in given else 1
    starts = gpus > 1 and not dry_run and "WORLD_SIZE" not in os.environ
    with contextlib.redirect_stderr(io.StringIO()) if starts else contextlib.nullcontext():  # the others say it
        plans = [
            planned(backbone or None, name, dataset or None, preset=preset, **request, **values)
            for name, preset, values in shares
        ]
    if starts:
        from densebench.launching import launch

        for plan in plans:
            for each in plan.datasets:
                plan.evaluator.resolve(each)  # what contradicts itself fails before anything is started
        raise typer.Exit(launch(gpus, sys.argv[1:]))
    failures = []
    for step in steps(plans):
        if isinstance(step, dict):
            print(json.dumps(step) if as_json else summary(step), flush=True)
        elif isinstance(step, Failure):
            failures.append(step)
    if failures:
        raise typer.Exit(2 if all(failure.is_users for failure in failures) else 1)


def _shares(
    entries: list[tuple[str, str | None, catalog.Entry]], given: dict[str, Any]
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Return each protocol with its preset and the given options that it has, all of them checked before anything runs.

    Raises UserError for a value that a protocol does not take.
    """
    shares = []
    for name, preset, entry in entries:
        applicable = [flag for flag in entry.flags() if flag.name in given]
        for flag in applicable:
            flag.read(given[flag.name])
        shares.append((name, preset, {flag.name: given[flag.name] for flag in applicable}))
    return shares


def _entries(protocols: str, presets: str | None) -> list[tuple[str, str | None, catalog.Entry]]:
    """Return each protocol of a list such as kmeans,incontext,linear with its preset and its part of the catalogue.

    Raises UserError where there are not as many presets as protocols, and for a preset that its protocol does not have.
    """
    names = [name.strip() for name in protocols.split(",")]
    chosen: list[str | None] = [*presets.split(",")] if presets else [None] * len(names)
    if len(chosen) != len(names):
        raise UserError(f"--preset {presets}: {len(names)} protocols take {len(names)} presets, in their order, or none")
    entries = []
    for name, preset in zip(names, chosen, strict=True):
        entry = catalog.find("protocols", name)
        catalog.check_preset(entry, name, preset)
        entries.append((name, preset, entry.part(preset)))
    return entries


def _help(context: typer.Context, protocol: str | None, preset: str | None) -> None:
    print(context.get_help())
    if protocol is None:
        titles = ((name, entry.title) for name, entry in catalog.entries("protocols").items())
        print("\n".join(["Protocols:", *listed(titles)]))
        print("\nEvery protocol has options of its own: densebench eval --protocol NAME --help")
        return
    whole = catalog.find("protocols", protocol)
    entry = whole.part(preset)
    print(f"{entry_options.heading(entry.title, entry.presets)}\n{entry_options.describe(entry.flags())}")
    if others := [name for name in whole.all_presets if name not in entry.presets]:
        print("\n" + "\n".join(wrapped(f"{protocol} also has the presets {', '.join(others)}, with options of their own:")))
        print(f"densebench eval --protocol {protocol} --preset NAME --help")
