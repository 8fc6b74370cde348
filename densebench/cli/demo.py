"""`densebench demo`: the main job from end to end on generated data, in a few minutes on two cores, with no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the run and the records.")] = Path("demo"),
) -> None:
    """Pretrain CrIBo on generated scenes, score it in context beside its random initialisation, and print the leaderboard."""
    from densebench.backbones.checkpoint import read_checkpoint
    from densebench.console import notice
    from densebench.evaluation.run import evaluate
    from densebench.results.leaderboard import leaderboard
    from densebench.training.run import train
    from densebench.training.run_file import RUN, is_finished

    run, results = folder / "cribo", folder / "results"
    if not is_finished(run):
        notice("demo: CrIBo from scratch on generated scenes (preset tiny)")
        train("cribo", data=["scenes"], output=run, resume=(run / RUN).exists())
    notice("demo: in-context retrieval, fractions 1, 8, 64 and 128 of the training images, five seeds")
    for backbone in (f"ckpt:{run}", f"random:{read_checkpoint(run)['arch']}"):
        print(evaluate(backbone, "incontext", "scenes", results=results, fractions=(1, 8, 64, 128)), flush=True)
    print()
    print(leaderboard(results))
