"""`densebench demo`: the main job from end to end on generated data, in a minute or two, with no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where the records go.")] = Path("demo/results"),
) -> None:
    """Score untrained backbones and raw pixels in context on the data set `scenes`, and print the leaderboard."""
    from densebench.console import notice
    from densebench.evaluation import evaluate, summary
    from densebench.leaderboard import leaderboard, render

    backbones = ["random:vit_tiny_patch16_224", "random:resnet18", "pixels:16"]
    notice("demo: in-context retrieval on generated scenes, fractions 1, 8, 64 and 128 of the training images, five seeds")
    for record in evaluate("incontext", backbones=backbones, datasets=["scenes"], results=results, fractions="1,8,64,128"):
        print(summary(record))
    print()
    print(render(leaderboard(results), "md"))
