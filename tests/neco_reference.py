"""NeCo's loss in loops on a tiny network, for the tests to compare with."""

from __future__ import annotations

import torch
from drawn_views import drawn_views

from densebench.pretrain.neco.method import NeCo
from densebench.training.networks import Network, create_encoder
from densebench.training.objective import StepContext

SIZE, LOCAL, IMAGES = 64, 32, 4


SMALL = {"arch": "test_vit", "image_size": SIZE, "local_size": LOCAL, "local_crops": 1, "region_size": 2, "reference_count": 7,
         "hidden_dim": 16, "bottleneck_dim": 8, "batch_size": IMAGES, "steepness": 20.0, "teacher_steepness": 30.0}  # fmt: skip


def build_all(**options):
    """Options, objective, student and teacher, which differ."""
    torch.manual_seed(0)
    chosen = NeCo(**{**SMALL, **options})
    student, teacher = (Network(create_encoder("test_vit", SIZE, 0.0), chosen.head(64)) for _ in "st")
    return chosen, chosen.objective(student.encoder), student, teacher


def seen(chosen, images=IMAGES, seed=0):
    return drawn_views(chosen, images, seed)


CONTEXT = StepContext(step=5, epoch=0, epochs=1.0, seed=2, logging=True)
