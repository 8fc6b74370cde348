"""A user's script, written as mypy --strict wants it; `test_wheel` checks it against the installed package."""

from pathlib import Path

from torch import Tensor, nn

import densebench
from densebench.evals.incontext import InContext


def patches(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features that a model gives for images."""
    features: Tensor = model(images)
    return features


def score(model: nn.Module, results: Path) -> float:
    """Return the mIoU of a model at half precision, and print a table."""
    result: densebench.Result = densebench.evaluate(
        model, "incontext", "scenes", features=patches, name="mine", limit=8, results=results, fractions=(1, 8)
    )
    print(result, result.frame.shape, result.records[0]["id"])
    same = densebench.evaluate(["random:test_vit", model], InContext(neighbours=(5,)), densebench.load_dataset("scenes"))
    for failure in same.failures:
        print(failure.backbone, failure.problem)
    return result.miou


def first_score(spec: str) -> float | None:
    """Return the first score of a backbone that comes, and stop there."""
    for scored in densebench.iter_evaluate(spec, "kmeans", "scenes", limit=8):
        return scored.score.value
    return None


def train(results: str) -> str:
    """Train for two steps, look at the backbone, and return the version that did it."""
    folder: Path = densebench.train("dino", output=Path(results) / "dino", steps=2)
    backbone: densebench.Backbone = densebench.load_backbone(f"ckpt:{folder}")
    print(backbone.dim, backbone.stride, densebench.leaderboard(results).tables[0].caption)
    return densebench.__version__


def follow(model: nn.Module) -> list[float]:
    """Return the values of a probe that are due."""
    probe: densebench.Probe = densebench.Probe("scenes", "incontext", every=2, limit=8)
    values = [probe(model, step) for step in range(4)]
    return [value for value in values if value is not None]
