"""DINO: self-distillation of global and local views.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021.
The baseline of CrIBo and CrOC. Numbers to reach with ViT-S/16, 300 epochs of COCO, in-context retrieval at 1/1 (CrIBo, table 1):
13.0 mIoU on ADE20K, 31.9 on Pascal VOC; 800 epochs of ImageNet: 18.4 and 46.1.

The teacher sees two global views, the student these and small local ones; each student view must predict the teacher's
distribution of every other view. The defaults are the official code's.

The preset `imagenet` is the released run of 800 epochs, which CrIBo's table 1 scores. Known are: from CrIBo's tables, 800 epochs;
from DINO's paper, 1,024 images a step and up to ten local views; from the official README, for runs longer than the default, the
teacher's temperature (0.04 to 0.07 over 30 epochs) and a last layer that is not normalised. The argument file of the run was not
available, so the rest is inferred from that of CrIBo's ImageNet run, whose optimisation is "exactly the same as in DINO"
(appendix A.1): global views that show (0.25, 1) and local ones (0.05, 0.25) of an image, a learning rate that ends at 1e-5, no
clipping. DINO's authors give the same last learning rate and no clipping for a sibling run (issue 122 of their repository).
`imagenet-100` is the vanilla run of that README: the code's defaults, 100 epochs, 8 processes of 64 images (69.3 % by k-NN on
ImageNet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from densebench.options import setting
from densebench.training.augmentation import ViewSpec
from densebench.training.distillation import Centre
from densebench.training.heads import Head
from densebench.training.image_level import by_image, global_views, image_figures, image_loss
from densebench.training.method import TINY, PrototypePretrainer
from densebench.training.networks import Encoder, Network
from densebench.training.objective import Loss, Objective, StepContext, Views


@dataclass(frozen=True)
class DINO(PrototypePretrainer):
    """Hyper-parameters of DINO."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {**TINY, "local_crops": 2, "local_size": 48},
        "coco": {"epochs": 300},
        "imagenet": {
            "epochs": 800, "batch_size": 1024, "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25), "local_crops": 10,
            "teacher_temp": 0.07, "teacher_temp_epochs": 30, "norm_last_layer": False, "min_lr": 1e-5, "clip_grad": 0.0,
        },
        "imagenet-100": {"epochs": 100, "batch_size": 512},
    }  # fmt: skip

    global_scale: tuple[float, float] = setting((0.4, 1.0), "smallest and largest share of the image that a global view shows")
    local_scale: tuple[float, float] = setting((0.05, 0.4), "smallest and largest share of the image that a local view shows")
    local_crops: int = setting(8, "local views of an image", minimum=0, maximum=1000)
    local_size: int = setting(96, "side of the local views, px", minimum=8, maximum=16_384)

    def views(self) -> tuple[ViewSpec, ...]:
        """Return two global views (the first always blurred, the second sometimes solarised), then the local ones."""
        first, second = global_views(self)
        local = replace(first, size=self.local_size, scale=self.local_scale, blur=0.5)
        return first, second, *[local] * self.local_crops

    def head(self, dim: int) -> Head:
        """Return a head with one set of prototypes, for class tokens."""
        return Head(
            dim, {"image": self.out_dim}, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim, fixed_norm=self.norm_last_layer
        )

    def objective(self, encoder: Encoder) -> ImageDistillation:
        """Return the cross-entropy over pairs of views."""
        return ImageDistillation(self)


class ImageDistillation(Objective):
    """Mean cross-entropy over all pairs of a teacher's global view and another view of the student (DINO, equations 2 to 4)."""

    def __init__(self, options: DINO) -> None:
        super().__init__()
        self.options = options
        self.prototypes = {"image": options.out_dim}
        self.centre = Centre(options.out_dim, options.centre_momentum)
        self.centres = {"image": self.centre}

    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss. Views of the same size are encoded in one pass."""
        globals_, locals_ = views.pixels[:2], views.pixels[2:]
        with torch.no_grad():
            tokens = teacher.encode(torch.cat(globals_)).image
            teacher_views = by_image(teacher.project(tokens), 2)
        student_views = torch.cat(
            [by_image(student.project(student.encode(torch.cat(p)).image), len(p)) for p in (globals_, locals_) if p], dim=1
        )
        loss = image_loss(student_views, teacher_views, student, teacher, self.centre, self.options.student_temp, context)
        self.centre.see(teacher_views)
        return Loss(loss, {"image": loss.detach()}, image_figures(tokens, teacher_views, teacher, self.centre, context))
