"""CrIBo: self-supervised learning via cross-image object-level bootstrapping.

Lebailly, Stegmüller, Bozorgtabar, Thiran, Tuytelaars, ICLR 2024. Numbers to reach, in-context retrieval at 1/1 (table 1),
mIoU on ADE20K and Pascal VOC: ViT-S/16, 300 epochs of COCO: 23.4 and 58.1; ViT-S/16, 800 epochs of ImageNet: 27.7 and 72.1
(28.3 and 73.2 in the official repository); ViT-B/16, 400 epochs of ImageNet: 28.5 and 73.2 (30.0 and 74.9).

The teacher's patches of two views are clustered together into objects. Each object finds its nearest neighbour among objects of
earlier images; where the match is cycle-consistent, the student's object in one view must predict the neighbour of the
object in the other. The same loss between the two views of the object itself, and DINO's between whole views, are
added.

Where paper and official code part, the code is the default and `--variant paper` follows the text: 12 objects on ImageNet instead
of 32; each direction of the loss across images divided by its own number of matches, instead of both by the first's; cycles must
close over the whole batch, gathered from all processes, instead of one GPU's share. The paper's three losses are sums of two
directions (equations 6, 8 and 10), the code's are their means: here all three are means under either variant, so that they weigh
alike. Objects and matches are counted over a group of images (`--group-size`: what one GPU of the code holds), and groups are
averaged. Unlike in the code, the empty rows of a bank are never matched (there they hold noise), and an object is never matched
with one of its own image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.features.extract import DTYPES
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.late_indices import LateIndices, positions_among, true_indices
from densebench.options import setting
from densebench.pretrain.cribo.bank import Bank, Pending
from densebench.pretrain.cribo.cycles import closed_cycles
from densebench.pretrain.cribo.matches import Matches, begin_searches, found_matches, in_other_view, match_weights, neighbours
from densebench.pretrain.cribo.objects import Objects, from_labels
from densebench.pretrain.cribo.partition import partition
from densebench.pretrain.cribo.pictures import clusters_picture, matches_picture
from densebench.processes import resolve_precision
from densebench.training.augmentation import ViewSpec
from densebench.training.distillation import Centre, distil
from densebench.training.heads import Head
from densebench.training.image_level import by_image, global_views, image_figures, image_loss
from densebench.training.method import TINY, PrototypePretrainer
from densebench.training.networks import Encoder, Network
from densebench.training.objective import Loss, Objective, StepContext, Views, check_weights, shares, weighed

Pair = tuple[Tensor, Tensor]  # prototypes of the student and of the teacher
LONG: Mapping[str, Any] = {"teacher_temp": 0.07, "norm_last_layer": False, "teacher_temp_epochs": 30, "min_lr": 1e-5}


@dataclass(frozen=True)
class CrIBo(PrototypePretrainer):
    """Hyper-parameters of CrIBo."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {**TINY, "object_dim": 256, "objects": 12, "memory": 192, "bootstrap_after": 10},
        "coco": {**LONG, "clip_grad": 0.0, "objects": 64, "lambda_pos": 2.0, "group_size": 32},
        "imagenet": {
            **LONG, "epochs": 800, "batch_size": 1024, "clip_grad": 0.0, "objects": 32, "lambda_pos": 1.0, "group_size": 128,
        },
        "imagenet-vitb": {
            **LONG, "arch": "vit_base_patch16_224", "epochs": 400, "batch_size": 1024, "lr": 7.5e-4, "min_lr": 2e-6,
            "clip_grad": 0.3, "objects": 32, "lambda_pos": 1.0, "group_size": 64, "freeze_last_layer": 3,
            "teacher_temp_epochs": 50, "norm_last_layer": True,
        },
    }  # fmt: skip
    paper: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"neighbour_norm": "paper", "cycle_scope": "batch"},
        "imagenet": {"objects": 12},
        "imagenet-vitb": {"objects": 12},
    }

    objects: int = setting(64, "K: number of objects into which an image is divided", minimum=2, maximum=65_536)
    lambda_pos: float = setting(2.0, "weight of the positional cost in the clustering", minimum=0)
    memory: int = setting(25000, "S: number of images whose objects the memory banks hold", minimum=1, maximum=100_000_000)
    object_dim: int = setting(65536, "number of prototypes for objects", minimum=2, maximum=10_000_000)
    image_weight: float = setting(1.0, "weight of the loss between whole views; 0 switches it off", minimum=0)
    object_weight: float = setting(1.0, "weight of the loss between the two views of an object; 0 switches it off", minimum=0)
    neighbour_weight: float = setting(1.0, "weight of the loss across images; 0 switches it off", minimum=0)
    cycle: bool = setting(True, "use only cycle-consistent matches, instead of all")
    cycle_scope: str = setting("group", "objects among which a cycle must close", choices=("group", "batch"))
    neighbour_norm: str = setting(
        "official",
        "number of matches that divides the loss across images: the first direction's (official) or each one's (paper)",
        choices=("official", "paper"),
    )
    bootstrap_after: int = setting(1, "epochs before the loss across images begins", minimum=0)
    rounds: int = setting(5, "number of rounds of the clustering", minimum=1, maximum=10_000)
    sharpness: float = setting(20.0, "lambda: inverse of the entropic regularisation of the transport", minimum=0)
    sinkhorn_iterations: int = setting(5, "Sinkhorn iterations in each round", minimum=1, maximum=10_000)
    update_marginal: bool = setting(
        True, "set the marginal of clusters by their numbers of patches after each round, instead of uniform"
    )

    def views(self) -> tuple[ViewSpec, ...]:
        """Return two global views: the first always blurred, the second sometimes blurred and solarised."""
        return global_views(self)

    def head(self, dim: int) -> Head:
        """Return one MLP under two sets of prototypes."""
        outputs = {"image": self.out_dim, "object": self.object_dim}
        return Head(dim, outputs, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim, fixed_norm=self.norm_last_layer)

    def objective(self, encoder: Encoder) -> Bootstrapping:
        """Return the three losses of equation 11."""
        return Bootstrapping(self, encoder)


class Bootstrapping(Objective):
    """L = L_image + L_object + L_neighbour (equation 11), with two memory banks and two centres."""

    def __init__(self, options: CrIBo, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.weights = {"image": options.image_weight, "object": options.object_weight, "neighbour": options.neighbour_weight}
        check_weights(self.weights)
        self.grid = encoder.grid(options.image_size)
        patches = self.grid[0] * self.grid[1]
        if options.objects > 2 * patches:
            raise UserError(
                f"--objects {options.objects}: two views have {2 * patches} patches; use at most that, or larger views"
            )
        if options.cycle and options.cycle_scope == "batch" and options.accumulate > 1:
            raise UserError(
                f"--cycle-scope batch with --accumulate {options.accumulate}: a cycle closes over the whole batch, which is only "
                "there at once with --accumulate 1; give that, or --cycle-scope group (--variant paper sets batch)"
            )
        self.prototypes = {"image": options.out_dim, "object": options.object_dim}
        self.image_centre = Centre(options.out_dim, options.centre_momentum)
        self.object_centre = Centre(options.object_dim, options.centre_momentum)
        self.centres = {"image": self.image_centre, "object": self.object_centre}
        dtype = DTYPES[resolve_precision(options.precision, options.device)]
        self.bank = Bank(options.memory, options.objects, encoder.dim, patches, dtype)
        self._noted: list[tuple[Tensor, ...]] = []  # objects of the step's micro-batches

    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss: cluster the teacher's patches, match the objects across images, and compare student and teacher.

        The host reads how many objects and matches there are, and whether matches are proven, only after other work has been
        queued: the student's encoder, the loss between whole views, the loss between objects. So a GPU never idles.
        """
        pixels = torch.cat(views.pixels)
        numbers = on_device(views.numbers, pixels.device)
        with torch.no_grad():
            teacher_tokens = teacher.encode(pixels)
            labels, objects = self.cluster(teacher_tokens.patches, views, context)
            teacher_objects = objects.of_both(teacher_tokens.patches)
            count = HostCopy(objects.valid.sum())
        student_tokens = student.encode(pixels)
        student_objects = objects.of_both(student_tokens.patches)
        is_searched = self._learns(context) or context.logging  # other steps need no matches
        searches = begin_searches(self.bank, teacher_objects, objects.valid, numbers, count) if is_searched else []
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            teacher_views = by_image(teacher.project(teacher_tokens.image), 2)
        student_views = by_image(student.project(student_tokens.image), 2)
        terms["image"] = image_loss(
            student_views, teacher_views, student, teacher, self.image_centre, self.options.student_temp, context
        )
        self.image_centre.see(teacher_views)
        matches, ratio = self.matches(searches, teacher_objects, objects.valid, context)
        late = LateIndices(matches.used, matches.weights > 0)
        rows = true_indices(objects.valid.flatten(), int(count.value()))
        z_s = student.project(student_objects.flatten(1, 2)[:, rows])
        prototypes = student.head.prototypes("object"), teacher.head.prototypes("object")
        terms["object"] = self.object_loss(z_s, teacher_objects, objects.valid, rows, prototypes, teacher, context)
        terms["neighbour"] = self.neighbour_loss(z_s, objects.valid, matches, late.indices(), prototypes, teacher, context)

        self._note(teacher_objects, objects, labels, numbers, views)
        figures = image_figures(teacher_tokens.image, teacher_views, teacher, self.image_centre, context)
        figures["objects_per_image"] = objects.valid.sum(dim=1).float().mean()
        if is_searched:
            figures["bootstrapping_ratio"] = ratio
        return Loss(weighed(terms, self.weights), {name: term.detach() for name, term in terms.items()}, figures)

    def cluster(self, patches: Tensor, views: Views, context: StepContext) -> tuple[Tensor, Objects]:
        """Return the cluster of each patch on the joint axis `[b joint]`, and the objects.

        patches: those of all first views, then of all second views, `[2b n d]`.
        """
        options = self.options
        tokens = torch.cat(patches.chunk(2), dim=1)
        positions = torch.cat([views.positions(0, self.grid), views.positions(1, self.grid)], dim=1)
        noise = context.noise(len(views), tokens.shape[1], device=tokens.device)
        labels = partition(
            tokens, positions, noise, options.objects, options.lambda_pos, rounds=options.rounds, sharpness=options.sharpness,
            iterations=options.sinkhorn_iterations, group=options.group_size, update_marginal=options.update_marginal,
        )  # fmt: skip
        return labels, from_labels(labels, options.objects)

    def object_loss(
        self, z_s: Tensor, objects: Tensor, valid: Tensor, rows: Tensor, prototypes: Pair, teacher: Network, context: StepContext
    ) -> Tensor:
        """Return half of equation 6: the teacher's object in one view against the student's in the other; the mean over a group.

        z_s: the student's projections of the valid objects, `[2 rows e]`. objects: the teacher's, `[2 b k d]`. rows: the indices
        of the valid ones among all `b * k`.
        """
        with torch.no_grad():
            z_t = teacher.project(objects.flatten(1, 2)[:, rows])
        self.object_centre.see(z_t)
        weight = shares(valid, self.options.group_size).flatten()[rows] / 2
        mix = weight[:, None, None] * (1 - torch.eye(2, device=weight.device))
        return self._distil(z_s.transpose(0, 1), z_t.transpose(0, 1), mix, prototypes, context)

    def neighbour_loss(
        self,
        z_s: Tensor,
        valid: Tensor,
        matches: Matches,
        chosen: Sequence[Tensor],
        prototypes: Pair,
        teacher: Network,
        context: StepContext,
    ) -> Tensor:
        """Return half of equation 8: the neighbour of the teacher's object in one view against the student's object in the other.

        z_s: as in `object_loss`. chosen: the flat indices of the matches that are used, and of those that have a weight.
        """
        used, counted = chosen
        with torch.no_grad():
            z_t = teacher.project(neighbours(self.bank, matches.indices, used))[positions_among(matches.used, counted)]
        z_s = z_s.flatten(0, 1)[in_other_view(valid, z_s.shape[1], counted)]
        weights = matches.weights.flatten()[counted]
        return self._distil(z_s[:, None], z_t[:, None], weights[:, None, None], prototypes, context)

    @torch.no_grad()
    def matches(
        self, searches: Sequence[Pending], teacher_objects: Tensor, valid: Tensor, context: StepContext
    ) -> tuple[Matches, Tensor]:
        """Return the matches of both views' objects, none before `--bootstrap-after` epochs or without a loss across images.

        The second value is the bootstrapping ratio: the share of objects with a match that holds (appendix B.4).
        """
        options = self.options
        indices, masks = self.match(searches, teacher_objects, valid, context)
        ratio = masks.float().sum() / (2 * valid.sum()).clamp(min=1)
        if not self._learns(context):
            masks = torch.zeros_like(masks)
        return Matches(indices, masks, match_weights(masks, options.neighbour_norm, options.group_size)), ratio

    @torch.no_grad()
    def match(
        self, searches: Sequence[Pending], teacher_objects: Tensor, valid: Tensor, context: StepContext
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest neighbours' indices `[2 b k]` in each view's bank, and which matches hold (equations 2 to 4).

        searches: of both views, or none; then nothing matches.
        """
        options = self.options

        def closes(view: int, jumped: Tensor) -> Tensor:
            other = teacher_objects[1 - view]
            return closed_cycles(jumped, other, valid, options.cycle_scope, options.group_size, context)

        return found_matches(self.bank, searches, (valid.shape[0], valid.shape[1]), closes if options.cycle else None)

    def _learns(self, context: StepContext) -> bool:
        """Return whether the step has a loss across images."""
        return context.epoch >= self.options.bootstrap_after and self.options.neighbour_weight > 0

    def _distil(self, z_s: Tensor, z_t: Tensor, mix: Tensor, prototypes: Pair, context: StepContext) -> Tensor:
        centre = self.object_centre.value
        return distil(z_s, prototypes[0], z_t, prototypes[1], mix, centre, self.options.student_temp, context.teacher_temp)

    def _note(self, teacher_objects: Tensor, objects: Objects, labels: Tensor, numbers: Tensor, views: Views) -> None:
        draws = [params.on(teacher_objects.device) for params in views.draws]
        crops = torch.stack([torch.cat([d.boxes, d.flips[:, None].float()], dim=1) for d in draws], dim=1)
        self._noted.append((teacher_objects.detach(), objects.valid, numbers, labels, crops))

    def commit(self, teacher: Network) -> None:
        """Update the centres, and add the step's objects to the banks."""
        super().commit(teacher)
        teacher_objects, *others = zip(*self._noted, strict=True)
        self.bank.add(torch.cat(teacher_objects, dim=1), *(torch.cat(part) for part in others))
        self._noted.clear()

    def discard(self) -> None:
        """Forget the step: centres and banks stay as they are."""
        super().discard()
        self._noted.clear()

    def pictures(self, teacher: Network, views: Views, context: StepContext, images: Images) -> dict[str, Image]:
        """Return pictures of the clusters of both views, and of objects beside their matches (figure 3 of the paper)."""
        teacher_tokens = teacher.encode(torch.cat(views.pixels))
        labels, objects = self.cluster(teacher_tokens.patches, views, context)
        teacher_objects = objects.of_both(teacher_tokens.patches)
        numbers = on_device(views.numbers, teacher_objects.device)
        searches = begin_searches(self.bank, teacher_objects, objects.valid, numbers, HostCopy(objects.valid.sum()))
        indices, masks = self.match(searches, teacher_objects, objects.valid, context)
        return {
            "clusters": clusters_picture(views, labels, objects.valid, self.grid),
            "matches": matches_picture(self.bank, views, labels, objects.valid, indices[0], masks[0], self.grid, images),
        }
