"""The kinds of pictures that a look shows: what each is called, what to look for, and who shows features so."""

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
        "The three directions in which a backbone's patches differ most are drawn as red, green and blue, the same directions in "
        "all its pictures. Look for things: where a backbone tells them apart, each thing has one colour with clear borders, and "
        "the same sort of thing has the same colour in other pictures. Noise, or the same blur everywhere, means that it does "
        "not. Colours of two backbones are not comparable, only their shapes.",
        "as in DINOv2 (Oquab et al., 2024, figure 1)",
    ),
    Kind(
        "similarity",
        "Similarity to a patch",
        "Similarity",
        "The cosine of one query patch, in the white square, with every patch. Look for things: where a backbone knows what the "
        "patch belongs to, the whole thing is bright and the rest is dark.",
        "as in DINOv3 (Siméoni et al., 2025)",
    ),
    Kind(
        "neighbours",
        "Nearest patches",
        "Nearest patches",
        "For each query patch, the patch of greatest cosine of each other picture, the nearest first. Look for the same part "
        "of the same sort of thing, not just for the same colour or brightness.",
        "as in NeCo (Pariza et al., 2025, figure 4)",
    ),
    Kind(
        "clusters",
        "K-means clusters",
        "Clusters",
        "All patches of all pictures of a backbone in a few groups: the same colour is the same group in every picture of that "
        "backbone. Look for groups that follow things, and that return in other pictures. Another backbone's groups have the "
        "colours of the first one's groups that they overlap most.",
        "by K-means over patches of length one, as unsupervised segmentation reads features",
    ),
    Kind(
        "attention",
        "Attention of the class token",
        "Attention",
        "Where each head of the last block looks for its summary of the whole picture, each from zero (dark) to its own greatest "
        "value (bright). Look for heads that stay on one thing.",
        "as in DINO (Caron et al., 2021, figure 1)",
    ),
    Kind(
        "norms",
        "Lengths and outlier tokens",
        "Lengths",
        "The length of each patch's token, dark for short and bright for long, before the last norm where a ViT has one. White "
        "squares mark outlier tokens: a few patches, often of plain background, that are far longer than the others. Such "
        "tokens say little of what is there.",
        "as in Vision Transformers Need Registers (Darcet et al., 2024)",
    ),
    Kind(
        "tracks",
        "Tracks through a video",
        "Tracks",
        "Regions of the first frame, carried through the video by the features alone. Look for regions that stay on their "
        "things.",
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
