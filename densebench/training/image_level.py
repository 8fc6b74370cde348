"""The image-level loss of DINO, which CrOC and CrIBo include: class tokens of different views of an image must agree.

Source: DINO (Caron et al., ICCV 2021), equations 2 to 4; CrOC, equations 5 and 6; CrIBo, equations 9 and 10.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from densebench.training.augmentation import ViewSpec
from densebench.training.distillation import Centre, distil, entropy
from densebench.training.method import Pretrainer
from densebench.training.networks import Network
from densebench.training.objective import StepContext


def global_views(options: Pretrainer) -> tuple[ViewSpec, ViewSpec]:
    """Return two global views: the first always blurred, the second sometimes blurred and solarised."""
    looks: dict[str, Any] = {"strengths": options.colour_jitter, "grey": options.grey, "sigma": options.blur_sigma}
    first = ViewSpec(options.image_size, options.global_scale, blur=1.0, **looks)
    return first, replace(first, blur=0.1, solarise=0.2)


def by_image(vectors: Tensor, views: int) -> Tensor:
    """Return vectors that are ordered by view, `[views * b, e]`, by image: `[b, views, e]`."""
    return vectors.unflatten(0, (views, -1)).transpose(0, 1)


def image_loss(
    student_views: Tensor,
    teacher_views: Tensor,
    student: Network,
    teacher: Network,
    centre: Centre,
    student_temp: float,
    context: StepContext,
) -> Tensor:
    """Return the cross-entropy, averaged over images and over pairs of a teacher view t with a student view s != t.

    student_views, teacher_views: projections, `[b s e]` and `[b t e]`; the first t student views are the teacher's.
    """
    pairs = 1.0 - torch.eye(student_views.shape[1], teacher_views.shape[1], device=student_views.device)
    mix = (pairs / pairs.sum() / len(student_views)).expand(len(student_views), -1, -1)
    prototypes = student.head.prototypes("image"), teacher.head.prototypes("image")
    return distil(
        student_views, prototypes[0], teacher_views, prototypes[1], mix, centre.value, student_temp, context.teacher_temp
    )


def image_figures(
    tokens: Tensor, teacher_views: Tensor, teacher: Network, centre: Centre, context: StepContext
) -> dict[str, Tensor]:
    """Return the figures that the collapse monitor reads on logged steps: the teacher's entropy and `spread` of class tokens."""
    if not context.logging:
        return {}
    certainty = entropy(teacher_views.flatten(0, 1), teacher.head.prototypes("image"), centre.value, context.teacher_temp)
    return {"teacher_entropy": certainty, "feature_std": spread(tokens)}


def spread(tokens: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the mean standard deviation of the coordinates of unit-length tokens, times the root of their width.

    It is near 1 for independent directions, and 0 where all tokens are the same.
    """
    unit = F.normalize(tokens.float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
