"""A pretraining method: a frozen dataclass of hyper-parameters that defines its views, the head on its encoder and its objective.

`densebench.training` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from densebench.options import runtime, setting
from densebench.training.augmentation import ViewSpec
from densebench.training.networks import Encoder
from densebench.training.objective import Objective

MOST_STEPS = 100_000_000
"""The largest number of steps of a run: every schedule is an array with one value per step."""


TINY: Mapping[str, Any] = {  # a minute or two on two cores, for small images such as those of `scenes`
    "arch": "test_vit", "image_size": 96, "epochs": 60, "batch_size": 64, "lr": 8e-3, "warmup_epochs": 2.0, "momentum": 0.95,
    "hidden_dim": 512, "bottleneck_dim": 128, "out_dim": 256, "drop_path": 0.0, "blur_sigma": (0.1, 0.4), "grey": 0.0,
    "colour_jitter": (0.4, 0.4, 0.2, 0.02), "cache": "ram",
}  # fmt: skip


@dataclass(frozen=True)
class Pretrainer(ABC):
    """Base of all methods. Settings change what is learned; runtime options do not, and only they may change on resuming."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Named settings; the first is the default."""
    paper: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What `--variant paper` changes, by preset ("": in all): where the text differs from the code that made the numbers."""
    class_token: ClassVar[bool] = True
    """Whether the objective needs a class token, so that a ViT without one cannot be trained."""

    post_pretraining: ClassVar[bool] = False
    """Whether the method is made to train a pretrained backbone further. A run from random weights prints a notice then."""

    arch: str = setting("vit_small_patch16_224", "architecture, the name of a plain ViT in timm")
    image_size: int = setting(224, "side of the global views, px", minimum=8, maximum=16_384)
    global_scale: tuple[float, float] = setting((0.25, 1.0), "smallest and largest share of the image that a global view shows")
    colour_jitter: tuple[float, float, float, float] = setting(
        (0.4, 0.4, 0.2, 0.1), "strengths of brightness, contrast, saturation, hue", minimum=0
    )
    grey: float = setting(0.2, "probability that a view loses its colours", minimum=0, maximum=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "smallest and largest standard deviation of the blur, px", minimum=0)
    epochs: int = setting(300, "passes over the data", minimum=1, maximum=1_000_000)
    steps: int | None = setting(None, "optimiser steps, instead of epochs", minimum=1, maximum=MOST_STEPS)
    batch_size: int = setting(256, "images a step, over all processes", minimum=1, maximum=65_536)
    accumulate: int = setting(
        1, "number of micro-batches into which a process divides its share of a batch, to save memory", minimum=1, maximum=65_536
    )
    group_size: int = setting(
        0,
        "images over which statistics are taken, in the papers those of one GPU; 0: a whole micro-batch",
        minimum=0,
        maximum=65_536,
    )
    lr: float = setting(5e-4, "learning rate for a batch of --lr-batch images", minimum=0)
    head_lr: float | None = setting(None, "learning rate of the head for a batch of --lr-batch images; none: --lr", minimum=0)
    lr_batch: int = setting(
        256,
        "batch size for which learning rates are given; other batches scale them linearly; 0: no scaling",
        minimum=0,
        maximum=65_536,
    )
    min_lr: float = setting(1e-6, "learning rate at the end, not scaled", minimum=0)
    warmup_epochs: float = setting(10.0, "epochs over which the learning rate rises from 0", minimum=0, maximum=1_000_000)
    weight_decay: float = setting(0.04, "weight decay at the start", minimum=0)
    weight_decay_end: float = setting(0.4, "weight decay at the end (cosine)", minimum=0)
    momentum: float = setting(0.996, "momentum of the teacher at the start; it ends at 1 (cosine)", minimum=0)
    clip_grad: float = setting(3.0, "norm to which the gradient of each parameter is clipped; 0: no clipping", minimum=0)
    drop_path: float = setting(
        0.1, "probability of dropping the student's last block (stochastic depth); it falls to 0 at the first", minimum=0
    )
    hidden_dim: int = setting(2048, "width of the hidden layers of the head", minimum=1, maximum=65_536)
    bottleneck_dim: int = setting(256, "width of the head's output", minimum=1, maximum=65_536)
    precision: str = setting(
        "auto",
        "arithmetic of the networks; auto: bf16 on a GPU that has it, else fp32; clustering and losses are always fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    device: str = runtime("auto", "where to train; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    workers: int | None = runtime(None, "processes that decode images; none: chosen for the machine", minimum=0, maximum=1024)
    decoder: str = runtime(
        "pillow",
        "what decodes JPEG files: pillow; turbo (simplejpeg, faster, the same pixels); with a --cache also reduced (large "
        "pictures at 1/2 to 1/8 of their size, which like --cache-side changes pixels a little)",
        choices=("pillow", "turbo", "reduced"),
    )
    cache: str = runtime(
        "none",
        "where decoded images, reduced to --cache-side, are cached: nowhere, in main memory or on the GPU",
        choices=("none", "ram", "gpu"),
    )
    cache_side: int = runtime(256, "largest short side of cached images, px", minimum=16, maximum=16_384)
    compile: bool | None = runtime(
        None, "compile the blocks of the networks with torch.compile; none: on a GPU, where the compiler works"
    )
    log_every: int = runtime(10, "steps between log lines", minimum=1)
    save_every: int = runtime(1, "epochs between saved states", minimum=1)
    save_steps: int | None = runtime(None, "steps between saved states, instead of epochs", minimum=1)
    keep: int = runtime(2, "number of states that stay saved; older ones are removed", minimum=1)
    keep_every: int | None = runtime(
        None, "epochs between backbones that are never removed, under epochs/; none: no such backbones", minimum=1
    )
    visualise: int = runtime(
        0,
        "images in the pictures of clusters, matches or neighbours that are drawn at every save, with index.html, a page of "
        "the run that refreshes itself; 0: neither",
        minimum=0,
        maximum=100_000,
    )
    probe: str | None = runtime(
        None, "data set that the teacher is scored on while it trains, such as scenes, or voc:200 for at most 200 images"
    )
    probe_every: int = runtime(10, "epochs between two probes", minimum=1)
    max_broken: int = runtime(100, "number of images that may fail to decode; with more of them the run stops", minimum=0)

    @abstractmethod
    def views(self) -> tuple[ViewSpec, ...]:
        """Return how the views of an image are drawn, in the order in which the objective gets them."""

    @abstractmethod
    def head(self, dim: int) -> nn.Module:
        """Return the head on an encoder of width `dim`; student and teacher get one each, with equal weights."""

    @abstractmethod
    def objective(self, encoder: Encoder) -> Objective:
        """Return the loss, with its memory between steps (centres, queues) as buffers."""

    def encoder(self) -> Encoder:
        """Return a new backbone, for a run that does not start from given weights."""
        from densebench.training.networks import create_encoder

        return create_encoder(self.arch, self.image_size, self.drop_path)

    def scheduled(self, steps: int, per_epoch: int) -> dict[str, np.ndarray]:
        """Return further schedules by name, float64 [steps]: they are logged, and the objective gets them as `context.scheduled`.

        `lr`, `weight_decay` and `momentum` replace the schedules of these names.
        """
        return {}


@dataclass(frozen=True)
class PrototypePretrainer(Pretrainer):
    """Base of methods that compare distributions over prototypes; it schedules the teacher's temperature."""

    out_dim: int = setting(65536, "number of prototypes", minimum=2, maximum=10_000_000)
    norm_last_layer: bool = setting(True, "keep the prototypes at length 1")
    freeze_last_layer: int = setting(1, "number of epochs at the start in which the prototypes are not trained", minimum=0)
    student_temp: float = setting(0.1, "temperature of the student", minimum=1e-4)
    teacher_temp: float = setting(0.04, "temperature of the teacher after its warm-up", minimum=1e-4)
    teacher_temp_start: float = setting(0.04, "temperature of the teacher at the start", minimum=1e-4)
    teacher_temp_epochs: int = setting(
        0, "epochs in which the teacher's temperature moves from start to end", minimum=0, maximum=1_000_000
    )
    centre_momentum: float = setting(0.9, "momentum of the centre of the teacher's logits", minimum=0)

    def scheduled(self, steps: int, per_epoch: int) -> dict[str, np.ndarray]:
        """Return the schedule of the teacher's temperature."""
        from densebench.training.optimisation import stairs

        return {"teacher_temp": stairs(self.teacher_temp_start, self.teacher_temp, steps, per_epoch, self.teacher_temp_epochs)}
