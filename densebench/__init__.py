"""densebench: pretrain vision backbones, and measure their patch features the way the literature measures them.

    from densebench import load_backbone, load_dataset, train, evaluate, leaderboard

Everything is imported when it is first used, so that `import densebench` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densebench.backbones.loading import load_backbone
    from densebench.datasets import load_dataset
    from densebench.evaluation.probe import Probe
    from densebench.evaluation.run import Backbones, evaluate
    from densebench.results.leaderboard import leaderboard
    from densebench.training.run import train

__all__ = ["Backbones", "Probe", "__version__", "evaluate", "leaderboard", "load_backbone", "load_dataset", "train"]

_HOMES = {
    "Backbones": "densebench.evaluation.run",
    "Probe": "densebench.evaluation.probe",
    "evaluate": "densebench.evaluation.run",
    "leaderboard": "densebench.results.leaderboard",
    "load_backbone": "densebench.backbones.loading",
    "load_dataset": "densebench.datasets",
    "train": "densebench.training.run",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("densebench")
    if name not in _HOMES:
        raise AttributeError(f"module 'densebench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
