"""`densebench choose`: which of several backbones to take for images of which a few are labelled."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench.cli.backbone_options import (
    Backbones,
    DataRoot,
    Debias,
    Layers,
    Mean,
    Names,
    PosEmbed,
    Role,
    Std,
    Upsample,
    Weights,
    one_each,
)


def choose(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Images and label maps (PNG masks, COCO, CVAT, LabelMe), or a name of `densebench data ls`."
        ),
    ],
    backbone: Backbones = None,
    weights: Weights = None,
    name: Names = None,
    layer: Layers = None,
    role: Role = "teacher",
    pos_embed: PosEmbed = "auto",
    mean: Mean = None,
    std: Std = None,
    debias: Debias = None,
    upsample: Upsample = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Protocols with commas; the first decides. A slash adds a preset: incontext/cribo,linear.",
        ),
    ] = "incontext,linear",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Split to use; without it all images, or the training split of data that come with splits."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take at most N labelled images, evenly spaced.")] = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="auto|none|folder|PATTERN",
            help="Images that are held out together. auto: near-duplicates, by their pixels. folder: those of one folder. "
            "PATTERN, a regular expression: those in whose names it matches the same text (frames of one video: '^[^_]+').",
        ),
    ] = "auto",
    folds: Annotated[int, typer.Option(metavar="K", min=2, help="Folds; with fewer than ten images, each image is a fold.")] = 5,
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Random subsets for each point of the learning curve.")
    ] = 3,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            min=1,
            help="Side of images, rounded down to each backbone's stride; without it that of the data set, usually 512.",
        ),
    ] = None,
    data_root: DataRoot = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="auto takes a GPU if there is one.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Images in one forward pass.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of folds, subsets and random: backbones.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write one self-contained HTML page.")] = None,
) -> None:
    """Recommend one of several backbones for images of which 10 to 50 are labelled, in one sentence.

    Every labelled image is predicted by models that were not trained on it (cross-validation), by in-context retrieval and by an
    exact linear probe. The backbone with the highest mIoU by the first protocol is recommended. Another is separable from it if
    the 95 % interval of their paired difference excludes 0; those that are not are named too, with how many more labelled images
    would separate the nearest. Speed is measured on this machine, at the image size that is scored.
    """
    from densebench.few_labels.choosing import choose as chosen
    from densebench.files.atomic import check_output, write_text

    if output is not None:
        check_output(output)
    given: dict[str, Any] = {
        "name": one_each(name), "weights": one_each(weights), "layer": layer or "last", "role": role, "pos_embed": pos_embed,
        "mean": mean, "std": std, "debias": debias, "upsample": upsample, "data_root": data_root,
        "device": device, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    choice = chosen(
        dataset, backbone, protocol=protocol, split=split, limit=limit, groups=groups, folds=folds, repetitions=repetitions,
        image_size=image_size, command=shlex.join(["densebench", *sys.argv[1:]]), **given,
    )  # fmt: skip
    print(json.dumps(choice.json(), ensure_ascii=False) if as_json else choice, flush=True)
    if output is not None:
        write_text(output, choice.page())
    if choice.failures:
        raise typer.Exit(2 if all(failure.is_users for failure in choice.failures) else 1)
