"""Linear decoder on a frozen backbone through MMSegmentation: crops of 512 px, sliding windows, original label maps.

- mmseg: Segmenter's linear decoder as CrIBo (Lebailly et al., ICLR 2024, section 4.2) trains it with MMSegmentation 1.x: one
  1 x 1 convolution on the last layer's normalised tokens (or on several layers concatenated, `--layer 8,9,10,11`: its table 6),
  cross-entropy of upsampled logits over all pixels (ignored ones count as 0, MMSegmentation's default), Adam with weight decay
  0.01 and learning rates 8e-4, 3e-4, 1e-4, 8e-5, of which the best is reported, polynomial decay to a tenth. 80000 iterations
  on VOC and Pascal Context, 160000 on ADE20K and COCO-Stuff. Random scale 0.5 to 2, crop 512, flip, photometric distortion;
  colours normalised by 127.5. Windows of 512 px every 480, mean logits, bilinear to the original size. Validated ten times; the
  best validation counts. The batch is not stated: the configuration's name says 8 x 1, which is taken here. The text keeps 1e-4
  as the last learning rate (it would raise the smallest one), the code a tenth; here `--eta-min` is a share.
- dinov3: DINOv3's evaluation (Simeoni et al., 2025): dropout 0.1 and batch norm before the convolution, AdamW 1e-3 with weight
  decay 1e-3, cosine after 1500 iterations of warm-up, 40000 iterations of 16 crops, windows every 341 px. Validated every 5000
  iterations on the scored split; the best validation counts. No photometric distortion, cross-entropy over labelled pixels, the
  backbone's colours. Its transforms are torchvision's, here they are MMSegmentation's.

The backbone is frozen: no gradient, no stochastic depth; one forward pass serves all learning rates, which train side by side
with the weights, batches and results that each would have alone. `--quirks` brings back what the reference does by accident:
stochastic depth (0.1) in the frozen backbone while training, small images of VOC padded with black, and on Pascal Context crops
of 480 px padded to 512, from images with a long side of 520 px. Position tables are resized as the checkpoint's own code does
(`--pos-embed`).

Several processes have equal shares of every batch: the crops, the random draws of dropout, the statistics of batch norm and the
gradient of a step are those of one process, but for the order of sums.

Numbers to reach (mIoU, ViT-S/16; CrIBo table 2; VOC, ADE20K, COCO-Stuff, Pascal Context): DINO 49.0, 23.4, 24.1, 32.4; CrIBo
71.9, 31.8, 33.2, 40.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset
from densebench.evaluation.option_groups import SlidingWindow
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.options import setting
from densebench.results.score import Score

DROP_PATH = 0.1
WARMUP = 1500 / 40_000


@dataclass(frozen=True)
class LinearMmseg(SlidingWindow):
    """Options of the linear decoder; the head of this file says what the presets are."""

    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {"mmseg": "linear-mmseg"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mmseg": {},
        "dinov3": {
            "head": "batchnorm",
            "learning_rates": (1e-3,),
            "optimiser": "adamw",
            "weight_decay": 1e-3,
            "schedule": "cosine",
            "photometric": False,
            "colour": "backbone",
            "train_batch": 16,
            "stride": 341,
            "validations": 8,
        },
    }

    head: str = setting(
        "linear", "one convolution (linear), or dropout and batch norm before it (batchnorm)", choices=("linear", "batchnorm")
    )
    learning_rates: tuple[float, ...] = setting(
        (8e-4, 3e-4, 1e-4, 8e-5), "learning rates; of several the best on the scored split is the headline", minimum=0
    )
    photometric: bool = setting(True, "draw brightness, contrast, saturation and hue of training images at random")

    @classmethod
    def published_names(cls, preset: str, layer: str) -> tuple[str, ...]:
        """Return the names under which published numbers are listed; numbers on several layers have another name."""
        names = super().published_names(preset, layer)
        return (*names, "linear-mmseg-4layers") if names and "," in layer else names

    def usual_iterations(self, dataset: Dataset) -> int:
        """Return the published length of a run: 40000 for DINOv3's head, else 80000, or 160000 on ADE20K and COCO-Stuff."""
        return 40_000 if self.head == "batchnorm" else super().usual_iterations(dataset)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the one training, of all learning rates, with its validations."""
        return self.windows(dataset, run, 1)

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Train all learning rates side by side on one frozen backbone."""
        from densebench.evaluation.window_scores import scores, setup_of  # MMSegmentation, which the other presets do without

        decided = {"head": self.head, "trained": False, "photometric": self.photometric, "warmup": WARMUP}
        setup = setup_of(self, backbone, dataset, **decided, drop_path=DROP_PATH if self.quirks else 0.0)
        yield from scores(self, backbone, dataset, run, setup, [self.learning_rates])
