"""`densebench choose`: which of several backbones to take for images of which a few are labelled."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench.cli import completing


def choose(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Images and label maps (PNG masks, COCO, CVAT, LabelMe), or a name of `densebench data ls`."
        ),
    ],
    backbone: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="One of `densebench ls backbones`; repeatable.", autocompletion=completing.backbones),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Weights for timm:NAME; one for each --backbone (the word none: no file), or none."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Name in tables; one for each --backbone, or none.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="Features: last, block numbers (8,9,10,11 are joined), key, query or value; one for all or one each.",
        ),
    ] = None,
    role: Annotated[str, typer.Option(metavar="teacher|student", help="Which network of a checkpoint.")] = "teacher",
    pos_embed: Annotated[str, typer.Option(help="How position embeddings are resized.")] = "auto",
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Protocols, with commas; the first decides. A preset follows a slash: incontext/cribo,linear."
        ),
    ] = "incontext,linear",
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split to take; without it all images, or the training split where splits are stated."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take at most so many labelled images, evenly spaced.")
    ] = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="auto|none|folder|PATTERN",
            help="Images that are held out together: near-duplicates by their pixels, none, those of a folder, or those in whose "
            "names a regular expression matches the same, such as the frames of a video: '^[^_]+'.",
        ),
    ] = "auto",
    folds: Annotated[int, typer.Option(metavar="K", min=2, help="Folds; with fewer than ten images each is held out alone.")] = 5,
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Random subsets for each point of the learning curve.")
    ] = 3,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PX", min=1, help="Side of images, rounded down to each stride; without it 512, or the data set's."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data sets; without it $DENSEBENCH_DATA, else ./data.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="auto takes a GPU if there is one.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Images in one forward pass.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of folds, subsets and random: backbones.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write one self-contained HTML page.")] = None,
) -> None:
    """Recommend one of several backbones for images of which 10 to 50 are labelled, in one sentence.

    Every labelled image is predicted by models that have not seen it (cross-validation), by in-context retrieval and by an exact
    linear probe. The backbone with the highest mIoU by the first protocol is taken. Another one is separable from it where the
    95 % interval of their paired difference leaves out 0; one that is not, but faster, is named with how many more labels would
    separate the two. Speed is measured here, with the side of images that is scored.
    """
    from densebench.few_labels.choosing import choose as chosen
    from densebench.files.atomic import write_text

    given: dict[str, Any] = {
        "batch_size": batch_size,
        "device": device,
        "layer": layer or "last",
        "role": role,
        "pos_embed": pos_embed,
    }
    choice = chosen(
        dataset, backbone, protocol=protocol, name=_each(name), weights=_each(weights), split=split, limit=limit, groups=groups,
        folds=folds, repetitions=repetitions, image_size=image_size, seed=seed, data_root=data_root,
        command=shlex.join(["densebench", *sys.argv[1:]]), **given,
    )  # fmt: skip
    if output is not None:
        write_text(output, choice.page())
    print(json.dumps(choice.json(), ensure_ascii=False) if as_json else choice, flush=True)
    if choice.failures:
        raise typer.Exit(2 if all(failure.is_users for failure in choice.failures) else 1)


def _each(values: list[str] | None) -> list[str | None] | None:
    """Return the values of an option, one for each --backbone; where there are several, the word none means no value."""
    return None if not values else [None if value == "none" and len(values) > 1 else value for value in values]
