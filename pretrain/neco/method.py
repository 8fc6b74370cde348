"""NeCo: patch neighbour consistency, a dense post-pretraining by sorting patches.

Pariza, Salehi, Burghouts, Locatello, Asano: Near, far: Patch-ordering enhances vision foundation models' scene understanding
(first as NeCo: Improving DINOv2's spatial representations in 19 GPU hours), ICLR 2025. Numbers to reach with ViT-S/14 from
DINOv2 with registers, 25 epochs of COCO, in-context retrieval at 1/128, 1/64, 1/8, 1/1 (table 8): Pascal VOC 66.5, 70.3, 76.3,
78.9 (as initialised 53.0, 57.9, 68.2, 73.8); ADE20K 23.7, 27.2, 34.0, 39.8 (19.6, 22.8, 30.1, 35.9).

A pretrained backbone is trained further. Each patch of the part that two views share is compared with reference patches of other
images; student and teacher must put the references in the same order of similarity. Sorting networks make orders differentiable.

Where text and official code part, the code is the default and `--variant paper` follows the text: reference patches are a
random fraction of the batch's student patches (code: dealt out from the teacher's patches of the batch, or from a queue of
them), distances are sorted (code: similarities, which a network that is no power of two mixes differently), and the
cross-entropy is taken in both directions (code: teacher to student). The swap is the arctan of section 3 and of the code;
the appendix names logistic_phi (`--swap`), which underflows at this steepness. Losses are means in both.

Decided here: the teacher's head starts as a copy of the student's (in the code it is another random one); references and
teacher carry no gradient; patches that are dealt out never go to the image they come from, unless it is alone (a queue or
a fraction may hold some of its own); a queue is read as far as it is filled; the teacher follows after the optimiser's step
instead of before it; a view is drawn at most 100 times before it is moved to overlap the others; positions are resized as
the backbone is used to, not as DINO's. Masks of the foreground apply to queries and references alike, as in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from densebench.console import warn
from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.numerics.foreground import foreground
from densebench.numerics.sorting import order_loss
from densebench.options import setting
from densebench.pretrain.neco.alignment import Pair, align, shared_parts
from densebench.pretrain.neco.pictures import Shown, neighbours_picture
from densebench.pretrain.neco.references import PatchQueue, deal, draw, pick
from densebench.processes import gather
from densebench.training.augmentation import ViewSpec
from densebench.training.heads import Head
from densebench.training.image_level import spread
from densebench.training.method import Pretrainer
from densebench.training.networks import Encoder, Network, Tokens, class_attention
from densebench.training.objective import Loss, Objective, StepContext, Views, shares

GLOBALS = (0, 1)
WHOLLY = 0.99  # share of wanted patches from which a cell counts as wholly wanted; 1 less a margin for rounding


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
    post_pretraining: ClassVar[bool] = True

    arch: str = setting("vit_small_patch14_reg4_dinov2", "a plain ViT of timm; --init brings its own")
    colour_jitter: tuple[float, float, float, float] = setting(
        (0.8, 0.8, 0.8, 0.2), "strengths of brightness, contrast, saturation, hue", minimum=0
    )
    local_scale: tuple[float, float] = setting((0.05, 0.25), "smallest and largest share of the image that a local view shows")
    local_crops: int = setting(4, "local views of an image", minimum=0, maximum=1000)
    local_size: int = setting(98, "side of the local views, px", minimum=8, maximum=16_384)
    overlap: float = setting(
        0.01,
        "least share of the image that a local and a global view have in common; two global views have twice that",
        minimum=0,
    )
    epochs: int = setting(25, "passes over the data", minimum=1, maximum=1_000_000)
    batch_size: int = setting(64, "images a step, over all processes", minimum=1, maximum=65_536)
    lr: float = setting(1e-6, "learning rate of the backbone; the paper's for DINOv2, 1e-5 for others", minimum=0)
    head_lr: float | None = setting(1e-4, "learning rate of the head; none: --lr", minimum=0)
    lr_batch: int = setting(
        0,
        "batch size that learning rates are given for; for others they are scaled linearly; 0: they are not",
        minimum=0,
        maximum=65_536,
    )
    min_lr: float = setting(0.0, "learning rate at the end, not scaled", minimum=0)
    warmup_epochs: float = setting(0.0, "epochs in which the learning rate rises from 0", minimum=0, maximum=1_000_000)
    weight_decay_end: float = setting(0.5, "weight decay at the end (cosine)", minimum=0)
    momentum: float = setting(0.9995, "momentum of the teacher at the start; it ends at 1 (cosine)", minimum=0)
    clip_grad: float = setting(0.0, "norm to which the gradient of each parameter is clipped; 0: no clipping", minimum=0)
    teacher: bool = setting(True, "teacher is a moving average of the student, instead of the student of the previous step")
    region_size: int = setting(7, "side of the grid to which shared parts are aligned", minimum=1, maximum=1024)
    references: str = setting(
        "batch", "source of references: the batch, dealt out; a queue of the teacher's patches; a fraction of the batch",
        choices=("batch", "queue", "fraction"),
    )  # fmt: skip
    reference_count: int = setting(
        49, "R: number of reference patches of an image, unless --references fraction", minimum=2, maximum=1_000_000
    )
    reference_fraction: float = setting(
        0.003, "f: share of the batch's patches that are references, with --references fraction", minimum=0
    )
    reference_images: str = setting(
        "inter",
        "with --references batch: patches of other images (inter) or of the image itself (intra)",
        choices=("inter", "intra"),
    )
    queue_size: int = setting(8192, "number of patches in the queue of each global view", minimum=2, maximum=100_000_000)
    queue_patches: int = setting(10, "number of patches of each image that enter the queue", minimum=1, maximum=1_000_000)
    network: str = setting("bitonic", "sorting network", choices=("bitonic", "odd-even"))
    swap: str = setting(
        "cauchy",
        "function that relaxes the comparison of two values in the network",
        choices=("cauchy", "logistic", "logistic_phi"),
    )
    steepness: float = setting(100.0, "beta: inverse temperature of the student's sorting", minimum=1e-4)
    teacher_steepness: float = setting(100.0, "beta of the teacher's sorting", minimum=1e-4)
    sort: str = setting("similarity", "what is sorted, in ascending order", choices=("similarity", "distance"))
    both_directions: bool = setting(False, "add the cross-entropy of the teacher's order with the student's")
    nearest: int = setting(0, "number of nearest references whose ranks count; 0: all", minimum=0, maximum=1_000_000)
    patches: str = setting(
        "both",
        "patches that are compared: by the teacher's attention, or both kinds",
        choices=("both", "foreground", "background"),
    )
    attention_mass: float = setting(0.6, "share of the attention that the foreground holds", minimum=0)

    def views(self) -> tuple[ViewSpec, ...]:
        """Return two global views and some local ones, none mirrored, all of which overlap the global ones."""
        shared: dict[str, Any] = {"flip": 0.0, "strengths": self.colour_jitter, "grey": self.grey}
        shared |= {"sigma": self.blur_sigma, "kernel": "bilinear"}
        first = ViewSpec(self.image_size, self.global_scale, **shared)
        second = ViewSpec(self.image_size, self.global_scale, meets=(0,), overlap=2 * self.overlap, **shared)
        local = ViewSpec(self.local_size, self.local_scale, meets=GLOBALS, overlap=self.overlap, **shared)
        return first, second, *[local] * self.local_crops

    def head(self, dim: int) -> Head:
        """Return an MLP to unit vectors, without prototypes."""
        return Head(dim, {}, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim)

    def objective(self, encoder: Encoder) -> OrderConsistency:
        """Return the cross-entropy of permutation matrices."""
        return OrderConsistency(self, encoder)

    def scheduled(self, steps: int, per_epoch: int) -> dict[str, np.ndarray]:
        """Return a momentum of 0 at every step with --no-teacher; else nothing."""
        import numpy as np

        return {} if self.teacher else {"momentum": np.zeros(steps)}


class OrderConsistency(Objective):
    """L = mean over pairs of a global view g and another view v of CE(P(D_t), P(D_s)) (section 3)."""

    def __init__(self, options: NeCo, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.prototypes = {}
        self.grids = [encoder.grid(spec.size) for spec in options.views()]
        self.count = options.reference_count
        if options.references == "fraction":
            patches = self.grids[0][0] * self.grids[0][1] * (options.group_size or options.batch_size)
            self.count = max(2, round(options.reference_fraction * patches))
        _check(options, self.count, encoder)
        queued = options.references == "queue"
        self.queue = PatchQueue(len(GLOBALS), options.queue_size, options.bottleneck_dim) if queued else None

    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss: align the parts that views share, sort the references by similarity, and compare the orders."""
        pairs = self.pairs(views)
        masked = self.options.patches != "both"
        with torch.no_grad():
            teacher_tokens = teacher.encode(torch.cat(views.pixels[:2]), qkv=masked)
            teacher_patches = torch.stack(teacher.project(teacher_tokens.patches).chunk(2))
            wanted = self.wanted(teacher_tokens) if masked else None
        student_patches = self.projected(student, views)
        pools = self.pools(teacher_patches, torch.stack(student_patches[:2]).detach(), wanted, context)
        student_similarities, teacher_similarities, counted = [], [], []
        for pair in pairs:
            teacher_aligned, student_aligned = self.aligned(pair, teacher_patches[pair.g], student_patches[pair.v])
            counted.append(self.counted(pair, wanted))
            references = self.references(pair, teacher_aligned, counted[-1], pools, context)
            student_similarities.append(torch.bmm(student_aligned, references.transpose(1, 2)))
            teacher_similarities.append(torch.bmm(teacher_aligned, references.transpose(1, 2)))
        total = self.loss(torch.stack(student_similarities), torch.stack(teacher_similarities), torch.stack(counted))
        figures = {}
        if context.logging:
            same = torch.stack(student_similarities).argmax(dim=3) == torch.stack(teacher_similarities).argmax(dim=3)
            valid = torch.stack(counted)
            figures = {
                "feature_std": spread(teacher_tokens.patches.flatten(0, 1)),
                "same_nearest": (same & valid).sum() / valid.sum(),
            }
        return Loss(total, {"order": total.detach()}, figures)

    def pairs(self, views: Views) -> list[Pair]:
        """Return all pairs of a global view and another view, with the part that they share."""
        return shared_parts([params.boxes for params in views.draws], self.grids, GLOBALS, views.pixels[0].device)

    def projected(self, student: Network, views: Views) -> list[Float[Tensor, "b n e"]]:
        """Return the student's projected patches of every view. Views of the same size are encoded in one pass."""
        projected: list[Tensor] = []
        for part in (views.pixels[:2], views.pixels[2:]):
            if part:
                projected += student.project(student.encode(torch.cat(part)).patches).chunk(len(part))
        return projected

    def wanted(self, teacher_tokens: Tokens) -> Bool[Tensor, "2 b n"]:
        """Return which patches of the global views are wanted: foreground (or background) by the teacher's class attention."""
        mask = foreground(class_attention(teacher_tokens).mean(dim=1), self.grids[0], self.options.attention_mass)
        return torch.stack((mask if self.options.patches == "foreground" else ~mask).chunk(2))

    def aligned(
        self, pair: Pair, teacher_patches: Tensor, student_patches: Tensor
    ) -> tuple[Float[Tensor, "b p e"], Float[Tensor, "b p e"]]:
        """Return the patches of the part that a pair shares, of length 1: the teacher's in view g, the student's in view v."""
        size = self.options.region_size
        teacher_aligned = align(teacher_patches.unflatten(1, self.grids[pair.g]), pair.boxes[0], size, inside=True)
        student_aligned = align(student_patches.unflatten(1, self.grids[pair.v]), pair.boxes[1], size, inside=True)
        return F.normalize(teacher_aligned.flatten(1, 2), dim=2), F.normalize(student_aligned.flatten(1, 2), dim=2)

    def counted(self, pair: Pair, wanted: Tensor | None) -> Bool[Tensor, "b p"]:
        """Return which aligned patches of a pair count: those that cover nothing but wanted patches."""
        size = self.options.region_size
        valid = pair.exists[:, None].expand(-1, size * size)
        if wanted is None:
            return valid
        mask = wanted[pair.g].float().unflatten(1, self.grids[pair.g])[..., None]
        return valid & (align(mask, pair.boxes[0], size, inside=True).flatten(1) > WHOLLY)

    def pools(
        self, teacher_patches: Tensor, student_patches: Tensor, wanted: Tensor | None, context: StepContext
    ) -> Float[Tensor, "2 ..."] | None:
        """Return the patches that references are drawn from, for each global view.

        These are the queue's rows `[2 r e]`, or for each image a fraction of the batch's patches `[2 b count e]`; None with
        --references batch, where references are aligned patches.
        """
        _, b, n, _ = teacher_patches.shape
        if self.queue is not None:
            noise = context.noise(b, n, device=teacher_patches.device, name="queue").expand(2, -1, -1)
            return self.queue.see(teacher_patches, _avoiding(noise, wanted), self.options.queue_patches)
        if self.options.references == "batch":
            return None
        size = self.options.group_size
        tokens = student_patches if size else gather(student_patches.transpose(0, 1)).transpose(0, 1)
        if size:
            noise = context.noise(b, 2, n, device=student_patches.device, name="fraction").transpose(0, 1)
        else:
            noise = context.common(2, tokens.shape[1], n, device=student_patches.device, name=f"fraction {context.part}")
            wanted = wanted if wanted is None else gather(wanted.transpose(0, 1)).transpose(0, 1)
        noise, size = _avoiding(noise, wanted), size or tokens.shape[1]
        parts = zip(tokens.split(size, dim=1), noise.split(size, dim=1), strict=True)
        rows = [torch.stack([t.flatten(0, 1)[draw(u, self.count)] for t, u in zip(*part, strict=True)]) for part in parts]
        return torch.stack([rows[image // size] for image in range(b)], dim=1)

    def references(
        self, pair: Pair, aligned: Tensor, counted: Tensor, pools: Tensor | None, context: StepContext
    ) -> Float[Tensor, "b count e"]:
        """Return the reference patches of every image, of length 1 and without gradient."""
        options, (b, p, _), device = self.options, aligned.shape, aligned.device
        if options.references == "fraction":
            assert pools is not None
            return F.normalize(pools[pair.g], dim=2)
        if pools is not None:
            order = context.common(pools.shape[1], device=device, name=f"references {pair.g} {pair.v}").argsort()
            return F.normalize(pick(pools[pair.g], order, context.first(b), b, self.count), dim=2)
        noise = context.noise(b, p, device=device, name=f"references {pair.g} {pair.v}")
        dealt, size = [], options.group_size or b
        for patches, chances, valid in zip(aligned.split(size), noise.split(size), counted.split(size), strict=True):
            others = len(patches) - 1 if options.reference_images == "inter" else 0
            shifts = context.common(p, others, device=device, name=f"shifts {pair.g} {pair.v}")
            dealt.append(patches.flatten(0, 1)[deal(chances, shifts, self.count, None if options.patches == "both" else valid)])
        return torch.cat(dealt).detach()

    def loss(self, student: Tensor, teacher: Tensor, counted: Tensor) -> Float[Tensor, ""]:
        """Return the cross-entropy of the orders of similarities `[pairs b p count]`, averaged over patches, then over pairs."""
        options = self.options
        nearest = options.nearest or self.count
        ranks = slice(self.count - nearest, None)
        if options.sort == "distance":
            student, teacher, ranks = 1 - student, 1 - teacher, slice(0, nearest)
        weights = torch.stack([shares(valid, options.group_size) for valid in counted]) / len(counted)
        return order_loss(
            student.flatten(0, 2), teacher.flatten(0, 2), weights.flatten(), steepness=options.steepness, ranks=ranks,
            teacher_steepness=options.teacher_steepness, network=options.network, swap=options.swap, both=options.both_directions,
        )  # fmt: skip

    def commit(self, teacher: Network) -> None:
        """Add the step's patches to the queue."""
        super().commit(teacher)
        if self.queue is not None:
            self.queue.commit()

    def discard(self) -> None:
        """Forget the step's patches: the queue stays as it is."""
        super().discard()
        if self.queue is not None:
            self.queue.discard()

    def pictures(self, teacher: Network, views: Views, context: StepContext, images: Images) -> dict[str, Image]:
        """Return a picture of a patch of each image beside the most similar patches of other images, in two views."""
        teacher_patches = [teacher.project(teacher.encode(view).patches) for view in views.pixels[:2]]
        pair = self.pairs(views)[0]
        pool = F.normalize(teacher_patches[0], dim=2)
        shown = [
            Shown(view, box, torch.einsum("bpe,cne->bpcn", patches, pool))
            for view, box, patches in zip(views.pixels[:2], pair.boxes, self.aligned(pair, *teacher_patches), strict=True)
        ]
        return {"neighbours": neighbours_picture(shown, views.pixels[0], self.grids[0], self.options.region_size)}


def _avoiding(noise: Float[Tensor, "2 b n"], wanted: Bool[Tensor, "2 b n"] | None) -> Float[Tensor, "2 b n"]:
    """Return noise that is raised by 1 for unwanted patches, so that they are drawn last."""
    return noise if wanted is None else noise + (~wanted).float()


def _check(options: NeCo, count: int, encoder: Encoder) -> None:
    """Raise UserError for options that do not go together."""
    if options.nearest > count:
        raise UserError(f"--nearest {options.nearest}: there are {count} references; use at most that")
    if options.patches != "both" and encoder.model.cls_token is None:
        raise UserError(f"--patches {options.patches}: {encoder.arch} has no class token that attends to some; use both")
    if not 0 < options.attention_mass <= 1:
        raise UserError(f"--attention-mass {options.attention_mass:g}: it is a share, above 0 and at most 1")
    if options.reference_fraction > 1:
        raise UserError(f"--reference-fraction {options.reference_fraction:g}: it is a share, at most 1")
    if options.references != "batch" and options.reference_images == "intra":
        raise UserError(f"--reference-images intra does not go with --references {options.references}; use --references batch")
    if options.references == "batch" and options.reference_images == "inter" and 1 in (options.batch_size, options.group_size):
        warn("an image alone in its batch or group cannot take references from others: it gets its own patches")
