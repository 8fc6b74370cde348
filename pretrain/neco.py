"""NeCo: patch neighbour consistency, a dense post-pretraining by sorting patches.

Pariza, Salehi, Burghouts, Locatello, Asano: Near, far: Patch-ordering enhances vision foundation models' scene understanding
(first as NeCo: Improving DINOv2's spatial representations in 19 GPU hours), ICLR 2025. Numbers to reach with ViT-S/14 from
DINOv2 with registers, 25 epochs of COCO, in-context retrieval at 1/128, 1/64, 1/8, 1/1 (table 8): Pascal VOC 66.5, 70.3, 76.3,
78.9 (as initialised 53.0, 57.9, 68.2, 73.8); ADE20K 23.7, 27.2, 34.0, 39.8 (19.6, 22.8, 30.1, 35.9).

A pretrained backbone is trained on. Each patch of the part that two views share is compared with reference patches of other
images; student and teacher must put the references in the same order of similarity. Sorting networks make orders differentiable.

Where text and official code part, the code is the default and `--variant paper` follows the text: reference patches are a
random fraction of the batch's student patches (code: dealt out from the teacher's patches of the batch, or from a queue of
them), distances are sorted (code: similarities, which a network that is no power of two mixes differently), and the
cross-entropy is taken in both directions (code: teacher to student). Losses are means in both.

Decided here: the teacher's head starts as a copy of the student's (in the code it is another random one), references and
teacher carry no gradient, patches that are dealt out never go to the image they come from, a queue is read as far as it is
filled, the teacher follows after the optimiser's step instead of before it, and a view is drawn at most 100 times before it is
moved to overlap the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.console import notice
from densebench.errors import UserError
from densebench.options import setting
from densebench.pretrainer import Pretrainer
from densebench.training.augmentation import ViewRecipe
from densebench.training.heads import Head
from densebench.training.networks import Encoder, Network, Tokens, class_attention
from densebench.training.objective import Loss, Now, Objective, Views
from densebench.training.regions import align, overlaps

from .foreground import foreground
from .image_level import spread
from .neighbour_pictures import Shown, neighbours_picture
from .references import PatchQueue, deal, fraction, pick
from .shares import shares
from .sorting import order_loss

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from densebench.training.images import Images

GLOBALS = (0, 1)


@dataclass(frozen=True)
class NeCo(Pretrainer):
    """Hyper-parameters of NeCo."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "arch": "test_vit", "image_size": 96, "local_size": 48, "local_crops": 2, "region_size": 4, "reference_count": 32,
            "epochs": 30, "lr": 1e-3, "head_lr": 1e-3, "momentum": 0.95, "hidden_dim": 512, "bottleneck_dim": 128,
            "colour_jitter": (0.4, 0.4, 0.2, 0.02), "grey": 0.0, "blur_sigma": (0.1, 0.4), "drop_path": 0.0, "cache": "ram",
        },
        "coco": {"references": "queue"},
        "coco-518": {"references": "queue", "image_size": 518, "lr": 1e-5},
        "coco-dino": {"arch": "vit_small_patch16_224", "epochs": 50, "batch_size": 45, "lr": 1e-5},
    }  # fmt: skip
    paper: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"references": "fraction", "sort": "distance", "both_directions": True},
    }
    class_token: ClassVar[bool] = False

    arch: str = setting("vit_small_patch14_reg4_dinov2", "a plain ViT of timm; --init brings its own")
    colour_jitter: tuple[float, ...] = setting((0.8, 0.8, 0.8, 0.2), "strengths of brightness, contrast, saturation, hue")
    local_scale: tuple[float, ...] = setting((0.05, 0.25), "share of the image that a local view shows, from,to")
    local_crops: int = setting(4, "local views of an image", minimum=0)
    local_size: int = setting(98, "side of the local views, px", minimum=8)
    overlap: float = setting(
        0.01, "share of the image that a view has in common with a global one; twice that of two globals", minimum=0
    )
    epochs: int = setting(25, "passes over the data", minimum=1)
    batch_size: int = setting(64, "images a step, over all processes", minimum=1)
    lr: float = setting(1e-6, "learning rate of the backbone; the paper's for DINOv2, 1e-5 for others", minimum=0)
    head_lr: float | None = setting(1e-4, "learning rate of the head; none: as the backbone's", minimum=0)
    lr_batch: int = setting(0, "batch that learning rates are given for; they are scaled linearly; 0: never", minimum=0)
    min_lr: float = setting(0.0, "learning rate at the end, not scaled", minimum=0)
    warmup_epochs: float = setting(0, "epochs in which the learning rate rises from 0", minimum=0)
    weight_decay_end: float = setting(0.5, "weight decay at the end (cosine)", minimum=0)
    momentum: float = setting(0.9995, "of the teacher at the start; 1 at the end (cosine)", minimum=0)
    clip_grad: float = setting(0.0, "length to which each gradient tensor is clipped; 0: not at all", minimum=0)
    teacher: bool = setting(True, "a teacher that follows slowly; no: the student of the last step teaches")
    region_size: int = setting(7, "side of the grid to which common parts are aligned", minimum=1)
    references: str = setting(
        "batch", "reference patches: the batch's, dealt out; a queue of the teacher's; a fraction of the batch, for all",
        choices=("batch", "queue", "fraction"),
    )  # fmt: skip
    reference_count: int = setting(49, "R: reference patches of an image, unless a fraction", minimum=2)
    reference_fraction: float = setting(0.003, "f: share of the batch's patches that are references, if a fraction", minimum=0)
    reference_images: str = setting(
        "inter", "references come from other images of the batch, or (intra) from the image itself", choices=("inter", "intra")
    )
    queue_size: int = setting(8192, "patches in the queue of a global view", minimum=2)
    queue_patches: int = setting(10, "patches of an image that enter the queue", minimum=1)
    network: str = setting("bitonic", "sorting network", choices=("bitonic", "odd-even"))
    swap: str = setting("cauchy", "relaxed comparator", choices=("cauchy", "logistic", "logistic_phi"))
    steepness: float = setting(100.0, "beta: inverse temperature of the student's sorting", minimum=1e-4)
    teacher_steepness: float = setting(100.0, "beta of the teacher's sorting", minimum=1e-4)
    sort: str = setting("similarity", "what is sorted, ascending", choices=("similarity", "distance"))
    both_directions: bool = setting(False, "also the cross-entropy of the teacher's order with the student's")
    nearest: int = setting(0, "nearest neighbours whose ranks count; 0: all", minimum=0)
    patches: str = setting("both", "patches that count, by the teacher's attention", choices=("both", "foreground", "background"))
    attention_mass: float = setting(0.6, "share of the attention that the foreground holds", minimum=0)

    def views(self) -> tuple[ViewRecipe, ...]:
        """Two global views and some local ones, none mirrored, all of which overlap the global ones."""
        brightness, contrast, saturation, hue = self.colour_jitter
        least, most = self.blur_sigma
        shared: dict[str, Any] = {"flip": 0.0, "strengths": (brightness, contrast, saturation, hue), "grey": self.grey}
        shared |= {"sigma": (least, most), "kernel": "bilinear"}
        wide, narrow = self.global_scale, self.local_scale
        first = ViewRecipe(self.image_size, (wide[0], wide[1]), **shared)
        second = ViewRecipe(self.image_size, (wide[0], wide[1]), meets=(0,), overlap=2 * self.overlap, **shared)
        local = ViewRecipe(self.local_size, (narrow[0], narrow[1]), meets=GLOBALS, overlap=self.overlap, **shared)
        return first, second, *[local] * self.local_crops

    def encoder(self) -> Encoder:
        """A new backbone, which is not what the method is for."""
        notice("no --init: NeCo is made to go on from a pretrained backbone, this run starts from random weights")
        return super().encoder()

    def head(self, dim: int) -> Head:
        """An MLP to unit vectors, without prototypes."""
        return Head(dim, {}, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim)

    def objective(self, encoder: Encoder) -> OrderConsistency:
        """The cross-entropy of permutation matrices."""
        return OrderConsistency(self, encoder)

    def scheduled(self, steps: int, per_epoch: int) -> dict[str, np.ndarray]:
        """Without a teacher, the momentum: 0 at all times."""
        import numpy as np

        return {} if self.teacher else {"momentum": np.zeros(steps)}


class OrderConsistency(Objective):
    """L = mean over pairs of a global view g and another view v of CE(P(D_t), P(D_s)) (section 3)."""

    def __init__(self, options: NeCo, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.prototypes = {}
        self.grids = [encoder.grid(recipe.size) for recipe in options.views()]
        self.pairs = [(g, v) for g in GLOBALS for v in range(len(self.grids)) if v != g]
        count = options.reference_count
        if options.nearest > count and options.references != "fraction":
            raise UserError(f"--nearest {options.nearest}: there are {count} references; use at most that")
        if options.patches != "both" and encoder.model.cls_token is None:
            raise UserError(f"--patches {options.patches}: {encoder.arch} has no class token that attends to some; use both")
        if not 0 < options.attention_mass <= 1:
            raise UserError(f"--attention-mass {options.attention_mass:g}: it is a share, above 0 and at most 1")
        if options.references != "batch" and options.reference_images == "intra":
            raise UserError(
                f"--reference-images intra does not go with --references {options.references}; use --references batch"
            )
        queued = options.references == "queue"
        self.queue = PatchQueue(len(GLOBALS), options.queue_size, options.bottleneck_dim) if queued else None

    def forward(self, student: Network, teacher: Network, views: Views, now: Now) -> Loss:
        """Align what two views share, sort its similarities to the references, and compare the orders."""
        masked = self.options.patches != "both"
        with torch.no_grad():
            told = teacher.encode(torch.cat(views.pixels[:2]), qkv=masked)
            taught = list(teacher.project(told.patches).chunk(2))
            wanted = self.wanted(told) if masked else [None, None]
        seen = self.seen(student, views)
        losses, agreement = [], []
        pools = self.pools(taught, [tokens.detach() for tokens in seen[:2]], wanted, now)
        for g, v in self.pairs:
            aligned, valid = self.aligned(taught[g], seen[v], wanted[g], views, g, v)
            references = self.references(aligned[0], valid, pools[g], now, g, v)
            ours, theirs = (torch.einsum("bpe,bre->bpr", patches, references) for patches in aligned[::-1])
            losses.append(self.loss(ours, theirs, valid))
            if now.logging:
                agreement.append((ours.argmax(dim=2) == theirs.argmax(dim=2))[valid].float().mean())
        total = torch.stack(losses).mean()
        figures = {"feature_std": spread(told.patches.flatten(0, 1))} if now.logging else {}
        if agreement:
            figures["same_nearest"] = torch.stack(agreement).nanmean()
        return Loss(total, {"order": total.detach()}, figures)

    def seen(self, student: Network, views: Views) -> list[Float[Tensor, "b n e"]]:
        """The student's projected patches of every view; views of one size in one pass."""
        found: list[Tensor] = []
        for part in (views.pixels[:2], views.pixels[2:]):
            if part:
                found += student.project(student.encode(torch.cat(part)).patches).chunk(len(part))
        return found

    def wanted(self, told: Tokens) -> list[Bool[Tensor, "b n"]]:
        """The patches of the global views that are foreground, or background, to the teacher's class token."""
        assert told.qkv is not None
        mask = foreground(class_attention(told.qkv).mean(dim=1), self.grids[0], self.options.attention_mass)
        return list((mask if self.options.patches == "foreground" else ~mask).chunk(2))

    def aligned(
        self, taught: Tensor, seen: Tensor, wanted: Tensor | None, views: Views, g: int, v: int
    ) -> tuple[tuple[Tensor, Tensor], Bool[Tensor, "b p"]]:
        """Patches of the common part in teacher's view g and student's view v, `[b p e]` each, and which of them count."""
        size, (rows, columns) = self.options.region_size, self.grids[g]
        (box_g, box_v), there = overlaps(views.draws[g].boxes, views.draws[v].boxes, self.grids[g], self.grids[v])
        parts = align(taught.unflatten(1, (rows, columns)), box_g, size), align(seen.unflatten(1, self.grids[v]), box_v, size)
        valid = there.to(taught.device)[:, None].expand(-1, size * size)
        if wanted is not None:  # a cell counts where all that it covers is wanted
            cover = align(wanted.float().unflatten(1, (rows, columns))[..., None], box_g, size).flatten(1)
            valid = valid & (cover > 1 - 1e-4)
        return (F.normalize(parts[0].flatten(1, 2), dim=2), F.normalize(parts[1].flatten(1, 2), dim=2)), valid

    def pools(
        self, taught: list[Tensor], seen: list[Tensor], wanted: list[Tensor] | list[None], now: Now
    ) -> list[Float[Tensor, "..."] | None]:
        """What references are drawn from where that is not the aligned patches themselves, for each global view."""
        b, n, _ = taught[0].shape
        if self.queue is not None:
            noise = now.noise(b, n, device=taught[0].device, name="queue")
            avoided = noise if wanted[0] is None else noise + (~wanted[0]).float()
            return list(self.queue.see(torch.stack(taught), avoided, self.options.queue_patches))
        if self.options.references == "fraction":
            return [
                self.drawn(tokens, now.noise(b, n, device=tokens.device, name=f"fraction {g}")) for g, tokens in enumerate(seen)
            ]
        return [None, None]

    def drawn(self, tokens: Tensor, noise: Tensor) -> Float[Tensor, "b r e"]:
        """The same random fraction of a group's patches for each of its images."""
        found = []
        size = self.options.group_size or len(tokens)
        for part, chances in zip(tokens.split(size), noise.split(size), strict=True):
            rows = part.flatten(0, 1)[fraction(chances, self.options.reference_fraction)]
            found.append(rows.expand(len(part), -1, -1))
        return torch.cat(found)

    def references(self, aligned: Tensor, valid: Tensor, pool: Tensor | None, now: Now, g: int, v: int) -> Float[Tensor, "b r e"]:
        """The reference patches of every image, of length 1 and without gradient."""
        options, b, device, name = self.options, len(aligned), aligned.device, f"references {g} {v}"
        if options.references == "fraction":
            assert pool is not None
            return F.normalize(pool, dim=2)
        if pool is not None:
            order = now.common(len(pool), device=device, name=name).argsort()
            return F.normalize(pick(pool, order, now.first(b), b, options.reference_count), dim=2)
        noise = now.noise(b, aligned.shape[1], device=device, name=name)
        found, size = [], options.group_size or b
        for patches, chances, counted in zip(aligned.split(size), noise.split(size), valid.split(size), strict=True):
            others = len(patches) - 1 if options.reference_images == "inter" else 0
            shifts = now.common(aligned.shape[1], others, device=device, name=f"shifts {g} {v}")
            wanted = None if options.patches == "both" else counted
            found.append(patches.flatten(0, 1)[deal(chances, shifts, options.reference_count, wanted)])
        return torch.cat(found).detach()

    def loss(self, ours: Tensor, theirs: Tensor, valid: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy of the orders of similarities `[b p r]`, a mean over the patches that count."""
        options, count = self.options, ours.shape[2]
        nearest = min(options.nearest, count) or count
        ranks = slice(count - nearest, None)
        if options.sort == "distance":
            ours, theirs, ranks = 1 - ours, 1 - theirs, slice(0, nearest)
        weights = shares(valid, options.group_size).flatten()
        return order_loss(
            ours.flatten(0, 1), theirs.flatten(0, 1), weights, steepness=options.steepness, ranks=ranks,
            teacher_steepness=options.teacher_steepness, network=options.network, swap=options.swap, both=options.both_directions,
        )  # fmt: skip

    def commit(self, teacher: Network) -> None:
        """The queue moves on."""
        if self.queue is not None:
            self.queue.commit()

    def discard(self) -> None:
        """The queue stays."""
        if self.queue is not None:
            self.queue.discard()

    def pictures(self, teacher: Network, views: Views, now: Now, images: Images) -> dict[str, Image]:
        """For a patch of each image, the patches of the other images in order of similarity, as each of two views sees it."""
        taught = [teacher.project(teacher.encode(view).patches) for view in views.pixels[:2]]
        (one, other), valid = self.aligned(taught[0], taught[1], None, views, 0, 1)
        pool = F.normalize(taught[0], dim=2)
        shown = [
            Shown(view, box, torch.einsum("bpe,cne->bpcn", patches, pool))
            for view, box, patches in zip(
                views.pixels[:2],
                overlaps(views.draws[0].boxes, views.draws[1].boxes, *self.grids[:2])[0],
                (one, other),
                strict=True,
            )
        ]
        return {"neighbours": neighbours_picture(shown, valid, views.pixels[0], self.grids[0], self.options.region_size)}
