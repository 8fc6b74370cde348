"""`densebench pretrain`: train a backbone by a self-supervised method."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench import catalog
from densebench.cli import completing, entry_options
from densebench.cli.config import Config, argument
from densebench.cli.config import given as config_given
from densebench.cli.ls import listed
from densebench.errors import UserError


def pretrain(
    context: typer.Context,
    method: Annotated[
        str | None,
        typer.Argument(metavar="METHOD", help="Name or ./file.py; `densebench ls methods`.", autocompletion=completing.methods),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Folder of images or .tar shards, imagenet, coco, coco+ or a data set; repeatable.",
            autocompletion=completing.datasets,
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data sets; $DENSEBENCH_DATA or ./data if not given.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Named hyper-parameters; the method's first if not given.", autocompletion=completing.presets
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="official|paper",
            help="official (the code behind the numbers) or paper (the text).",
            autocompletion=completing.words("official", "paper"),
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Start from timm:NAME or ckpt:DIR, not from scratch.", autocompletion=completing.backbones
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights for --init timm:NAME.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; a new one under runs/ if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output, or the newest.")] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of initialisation, data order and views [0].")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Number of images to train on, evenly spaced.")] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes on this machine, one a GPU; torchrun serves several machines.")
    ] = 1,
    sweep: Annotated[
        list[str] | None, typer.Option(metavar="NAME=A,B,...", help="Run a grid and tabulate its scores; repeatable.")
    ] = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done, and stop.")] = False,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this message, with the options of METHOD.")] = False,
) -> None:
    """Pretrain a vision backbone by a dense self-supervised method; `densebench eval` scores what it writes."""
    method = argument(context, "method", method)
    if show_help:
        _help(context, method)
        return
    if method is None:
        raise UserError(f"give a method: densebench pretrain {'|'.join(catalog.entries('methods'))}")
    entry = catalog.find("methods", method)
    given = config_given(context, entry.flags())

    from densebench.launching import launch
    from densebench.training.run import Data, Init, Launch, train

    command = shlex.join(["densebench", *sys.argv[1:]])
    request: dict[str, Any] = {"data": Data(tuple(data or ()), data_root), "limit": limit, "init": Init(init, weights)}
    request |= {"output": output, "resume": resume, "preset": preset, "variant": variant, "seed": seed, "dry_run": dry_run}
    request["launch"] = Launch(command=command)
    if sweep:
        from densebench.training.sweep import sweep as run_grid

        if gpus > 1 or resume:
            raise UserError("--sweep does not go with --gpus or --resume; finished points of its grid stay as they are")
        print(run_grid(method, sweep, request, given))
    elif gpus > 1 and "WORLD_SIZE" not in os.environ:
        with contextlib.redirect_stderr(io.StringIO()):  # the processes that are started print it
            train(method, **{**request, "dry_run": True, "launch": Launch(gpus, command)}, **given)
        raise typer.Exit(_status(launch(gpus, sys.argv[1:])))
    else:
        folder = train(method, **request, **given)
        if not dry_run and int(os.environ.get("RANK", "0")) == 0:
            print(folder)


def _status(code: int) -> int:
    return code if code in (0, 130) else 1


def _help(context: typer.Context, method: str | None) -> None:
    print(context.get_help())
    if method is None:
        titles = ((name, entry.title) for name, entry in catalog.entries("methods").items())
        print("\n".join(["Methods:", *listed(titles)]))
        print("\nEvery method has hyper-parameters of its own: densebench pretrain METHOD --help")
        return
    entry = catalog.find("methods", method)
    print(f"{entry_options.heading(entry.title, entry.presets)}\n{entry_options.describe(entry.flags())}")
