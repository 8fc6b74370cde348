"""densebench: pretrain vision backbones, and measure their patch features the way the literature measures them.

    from densebench import load_backbone, load_dataset, train, evaluate, leaderboard

Everything is imported when it is first used, so that `import densebench` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densebench.backbones.backbone import Backbone
    from densebench.backbones.loading import load_backbone
    from densebench.datasets import load_dataset
    from densebench.datasets.dataset import Dataset
    from densebench.evaluation.probe import Probe
    from densebench.evaluation.run import evaluate, iter_evaluate
    from densebench.few_labels.choosing import choose
    from densebench.few_labels.segmenting import iter_segment, segment
    from densebench.looking.look import look
    from densebench.results.leaderboard import leaderboard
    from densebench.results.merging import merge
    from densebench.results.result import Result
    from densebench.training.run import train

    __version__: str

__all__ = [
    "Backbone", "Dataset", "Probe", "Result", "__version__", "choose", "evaluate", "iter_evaluate", "iter_segment",
    "leaderboard", "load_backbone", "load_dataset", "look", "merge", "segment", "train",
]  # fmt: skip

_HOMES = {
    "Backbone": "densebench.backbones.backbone",
    "Dataset": "densebench.datasets.dataset",
    "Probe": "densebench.evaluation.probe",
    "Result": "densebench.results.result",
    "choose": "densebench.few_labels.choosing",
    "evaluate": "densebench.evaluation.run",
    "iter_evaluate": "densebench.evaluation.run",
    "iter_segment": "densebench.few_labels.segmenting",
    "leaderboard": "densebench.results.leaderboard",
    "load_backbone": "densebench.backbones.loading",
    "load_dataset": "densebench.datasets",
    "look": "densebench.looking.look",
    "merge": "densebench.results.merging",
    "segment": "densebench.few_labels.segmenting",
    "train": "densebench.training.run",
}


if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("densebench")
        if name not in _HOMES:
            raise AttributeError(f"module 'densebench' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)
