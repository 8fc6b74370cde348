"""`look`: backbones side by side on pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from densebench.evaluation.plan import Model
from densebench.evaluation.undisturbed import undisturbed
from densebench.looking import measures, queries, tracks
from densebench.looking.arguments import checked, requested, several
from densebench.looking.choice import different, named, pictures
from densebench.looking.looked import Look
from densebench.looking.opening import Source, opened
from densebench.looking.work import Work
from densebench.options import PATH, SWITCH, TEXT, check_types

COUNT, SIDE, CLUSTERS = 12, 448, 10


def look(
    source: Source,
    backbones: Model | Sequence[Model],
    *,
    weights: str | Path | Sequence[str | Path | None] | None = None,
    name: str | Sequence[str | None] | None = None,
    layer: str | Sequence[str] = "last",
    pos_embed: str | Sequence[str] = "auto",
    role: str = "teacher",
    features: Callable[..., Any] | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    debias: int | None = None,
    upsample: str | None = None,
    images: str | Sequence[str] | None = None,
    count: int = COUNT,
    seed: int = 0,
    image_size: int = SIDE,
    clusters: int = CLUSTERS,
    foreground: bool = False,
    video: bool | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    command: str = "",
) -> Look:
    """Return what backbones make of pictures, side by side, without any label: maps, nearest patches, costs, measures.

        seen = densebench.look("photos", ["timm:vit_small_patch14_dinov2", model])
        seen.save("look")           # look/index.html and PNGs

    source: a folder (pictures at any depth, tar shards, frames of videos), a picture, the name of a data set, or a list of
    pictures. backbones: what `load_backbone` takes, or a list of these; random:NAME is a useful baseline.
    weights, name: one for each backbone. layer, pos_embed: one for all, or one for each. role, features, mean, std, debias,
    upsample: how all backbones are read, see `load_backbone`.
    images: names of the pictures to look at; without it `count` pictures that differ. seed: of the choice, of K-means and of
    random: backbones. image_size: a backbone gets a picture with about image_size^2 pixels, its aspect kept, each side a multiple
    of the stride. clusters: of K-means. foreground: fit the PCA colours to the foreground alone. video: whether the
    pictures of each folder are frames of a video; None: decided by their names and pixels.
    device: auto, cpu or cuda. command: the command that the page shows as its own.

    A backbone that fails is reported on stderr, and its part has a `problem`; the rest goes on. Random states and switches of
    torch stay as the caller has them. Raises UserError for a wrong argument and where there is no picture; where all backbones
    fail, the first error.
    """
    check_types(TEXT, role=role, command=command)
    check_types(PATH, data_root=data_root)
    check_types(SWITCH, video=video)
    settings = checked(count, seed, image_size, clusters, foreground, device)
    wanted = requested(
        several(backbones), several(weights), several(name), several(layer), several(pos_embed),
        features, mean, std, debias, upsample, role=role, seed=settings.seed,
    )  # fmt: skip
    with undisturbed():
        found = opened(source, data_root, video)
        indices, notes = (
            different(found.images, settings.count, settings.seed)
            if images is None
            else (named(found.images, several(images)), [])
        )
        _, chosen, said = pictures(found.images, indices, explicit=images is not None)
        videos, of_videos = tracks.videos_to_follow(found)
        places = [queries.query_places(picture.image) for picture in chosen]
        work = Work(chosen, places, videos, settings)
        seen = work.all(wanted)
    return Look(
        title=found.images.name,
        pictures=tuple(chosen),
        backbones=seen,
        queries=tuple(places),
        tracks=work.tracks(seen),
        command=command,
        notes=(*notes, *said, queries.RULE, *of_videos, measures.about_costs(settings.device)),
        size=settings.size,
    )
