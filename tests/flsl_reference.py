"""FLSL's loss in loops on a tiny network, for the tests to compare with."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from drawn_views import drawn_views

from densebench.pretrain.flsl.mean_shift import grid_queries
from densebench.pretrain.flsl.method import FLSL
from densebench.training.networks import Network
from densebench.training.objective import StepContext

SIZE, LOCAL, IMAGES, TEMP = 64, 32, 3, 0.06


SMALL = {"arch": "test_vit", "image_size": SIZE, "local_size": LOCAL, "local_crops": 2, "window": 2, "local_window": 1,
         "out_dim": 12, "hidden_dim": 16, "bottleneck_dim": 8, "batch_size": IMAGES, "self_attention": 0.7,
         "cross_attention": 1.3}  # fmt: skip


CONTEXT = StepContext(step=5, epoch=0, epochs=1.0, scheduled={"teacher_temp": TEMP, "previous_share": 0.3}, seed=2, logging=True)


def build_all(**options):
    torch.manual_seed(0)
    chosen = FLSL(**{**SMALL, **options})
    student, teacher = (Network(dataclasses.replace(chosen, drop_path=0.0).encoder(), chosen.head(64)) for _ in "st")
    objective = chosen.objective(student.encoder)
    if chosen.centre:
        objective.centre.value.copy_(0.1 * torch.randn(12))
    return chosen, objective, student, teacher


def seen(chosen, images=IMAGES, seed=0):
    return drawn_views(chosen, images, seed)


def restated(chosen, student, teacher, views, guide=None):
    """Equation 13 in loops over crops, images and queries; `guide(crop, image, query)` is the first stage's mask."""
    told = teacher.encode(views.pixels[0]).patches.detach()
    distances, ours, theirs = [], [], []
    for crop in range(1, 2 + chosen.local_crops):
        window = chosen.window if crop == 1 else chosen.local_window
        side = (SIZE if crop == 1 else LOCAL) // 16
        noise = CONTEXT.noise(len(views), 2 + (side // window) ** 2, device=torch.device("cpu"), name=f"queries {crop}")
        places = grid_queries(noise, (side, side), window, chosen.queries)
        tokens = student.encode(views.pixels[crop]).patches
        for image in range(len(views)):
            for place in places[image].tolist():
                z = tokens[image, place]
                near = torch.softmax(chosen.self_attention / math.sqrt(384) * (tokens[image] @ z), dim=0)
                mode = sum(weight * token for weight, token in zip(near, tokens[image], strict=True))
                far = torch.softmax(chosen.cross_attention / math.sqrt(384) * (told[image] @ z.detach()), dim=0)
                if guide is not None:
                    far = 0.7 * far + 0.3 * guide(crop, image, place)
                positive = sum(weight * token for weight, token in zip(far, told[image], strict=True))
                distances.append((F.normalize(z, dim=0) - F.normalize(mode, dim=0)).square().sum())
                ours.append(student.project(mode[None])[0])
                theirs.append(teacher.project(positive[None])[0].detach())
    p = torch.softmax(torch.stack(ours) @ student.head.prototypes("mode").T / chosen.student_temp, dim=1)
    logits = torch.stack(theirs) @ teacher.head.prototypes("mode").detach().T
    return torch.stack(distances).mean(), p, logits
