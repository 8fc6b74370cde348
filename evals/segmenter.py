"""Segmenter: a backbone fine-tuned end to end with a mask transformer, through MMSegmentation.

Strudel, Garcia, Laptev, Schmid: Segmenter, ICCV 2021. The preset restates what CrIBo (Lebailly et al., ICLR 2024, section 4.3)
and NeCo (Pariza et al., ICLR 2025) do with MMSegmentation 1.x:

- mmseg: mask transformer of two layers on the last layer's normalised tokens; patches and class tokens are projected, normalised
  and multiplied. Adam with weight decay 0.01 and learning rates 8e-5, 3e-5, 1e-5, 8e-6, each in a separate run, of which the best
  is reported; polynomial decay to a tenth; stochastic depth 0.1. Data, windows and length as in `linear/mmseg`. For patches of 14
  px the crops are padded with zeros (512 to 518), and what was padded is cut off before scores are compared.

Position tables are trained at the checkpoint's own grid and resized in every pass. Official Segmenter uses SGD
(`--optimiser sgd`).

Numbers to reach (mIoU, ViT-S/16; CrIBo table 3; VOC, ADE20K, COCO-Stuff, Pascal Context): DINO 80.3, 43.3, 43.2, 46.0; CrIBo
82.3, 45.1, 43.9, 48.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError
from densebench.evaluation.option_groups import SlidingWindow
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.window_scores import scores, setup_of
from densebench.options import setting
from densebench.results.score import Score


@dataclass(frozen=True)
class Segmenter(SlidingWindow):
    """Options of the fine-tuning; the head of this file says what the preset is."""

    version: ClassVar[int] = 1
    fine_tunes: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, str]] = {"mmseg": "segmenter-mmseg"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"mmseg": {}}

    learning_rates: tuple[float, ...] = setting(
        (8e-5, 3e-5, 1e-5, 8e-6), "learning rates; of several the best on the scored split is the headline", minimum=0
    )
    drop_path: float = setting(0.1, "stochastic depth of the backbone's last block while training", minimum=0)

    def resolve(self, dataset: Dataset) -> Segmenter:
        """Fill in the options that were not given. Raises UserError for a --drop-path that is not below 1."""
        if self.drop_path >= 1:
            raise UserError(f"--drop-path {self.drop_path:g}: it is the share of dropped blocks and must be below 1")
        return super().resolve(dataset)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return one training for each learning rate, with its validations."""
        return self.windows(dataset, run, len(self.learning_rates))

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Fine-tune a copy of the backbone with each learning rate, one after the other."""
        if not backbone.params:
            raise UserError(f"{backbone.spec} has no weights to fine-tune; --protocol linear scores it")
        decided = {"head": "segmenter", "trained": True, "photometric": True, "warmup": 0.0, "drop_path": self.drop_path}
        setup = setup_of(self, backbone, dataset, **decided)
        yield from scores(self, backbone, dataset, run, setup, [(rate,) for rate in self.learning_rates])
