"""The kinds of maps that a look shows: what each is called, what to look for, and which paper shows features this way."""

from __future__ import annotations

from dataclasses import dataclass

from densebench.looking.looked import Look


@dataclass(frozen=True)
class Kind:
    """One kind: its name, its title, a shorter one, what it shows and what to look for in plain words, and its source."""

    name: str
    title: str
    short: str
    meaning: str
    source: str


KINDS = (
    Kind(
        "colours",
        "PCA colours",
        "PCA colours",
        "The first three principal components of a backbone's patch features as red, green and blue: one PCA for all of its "
        "pictures. Look for objects: where the features tell them apart, each object has one colour with clear borders, and "
        "objects of one kind share it across pictures. Noise, or the same blur everywhere, means that they do not. Between "
        "backbones compare shapes, never colours.",
        "as in DINOv2 (Oquab et al., 2024, figure 1)",
    ),
    Kind(
        "similarity",
        "Similarity to a patch",
        "Similarity",
        "The cosine similarity of one query patch, in the white square, to every patch. Look for objects: where the features "
        "capture what the patch belongs to, the whole object is bright and the rest is dark.",
        "as in DINOv3 (Siméoni et al., 2025)",
    ),
    Kind(
        "neighbours",
        "Nearest patches",
        "Nearest patches",
        "For each query patch, the patches of other pictures with the highest cosine similarity, at most one from a picture, the "
        "nearest first. Look for the same part of the same kind of object, not just for the same colour or brightness.",
        "as in NeCo (Pariza et al., 2025, figure 4)",
    ),
    Kind(
        "clusters",
        "K-means clusters",
        "Clusters",
        "K-means over a backbone's patches of all pictures: one colour is one cluster in all of them. Look for "
        "clusters that follow objects, and that return in other pictures. Clusters are matched one to one with those of the "
        "first backbone by overlap, and matched clusters have the same colour.",
        "by K-means over L2-normalised features, as in unsupervised segmentation",
    ),
    Kind(
        "attention",
        "Attention of the class token",
        "Attention",
        "Where the class token attends in the last block: one map for each head, from zero (dark) to the highest value of the "
        "head (bright). Look for heads that stay on one object.",
        "as in DINO (Caron et al., 2021, figure 1)",
    ),
    Kind(
        "norms",
        "Token norms and outliers",
        "Norms",
        "The L2 norm of each patch's token, low is dark and high is bright; in a ViT, before its final norm layer. White squares "
        "mark outlier tokens: a few patches, often of plain background, whose norm is far higher than that of the others. Such "
        "tokens say little about what is there.",
        "as in Vision Transformers Need Registers (Darcet et al., 2024)",
    ),
    Kind(
        "tracks",
        "Tracks through a video",
        "Tracks",
        "Regions of the first frame, propagated through the video by feature similarity alone. Look for regions that stay on "
        "their objects.",
        "as in DINO's test on DAVIS (Caron et al., 2021)",
    ),
)


def kinds_of(look: Look) -> list[Kind]:
    """Return the kinds that a look has anything of."""
    views = [view for seen in look.backbones for view in seen.views]
    present = {
        "neighbours": any(any(view.neighbours) for view in views),
        "attention": any(view.attention is not None for view in views),
        "tracks": bool(look.tracks),
    }
    return [kind for kind in KINDS if present.get(kind.name, bool(views))]
