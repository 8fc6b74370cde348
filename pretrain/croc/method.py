"""CrOC: cross-view online clustering for dense visual representation learning.

Stegmüller, Lebailly, Bozorgtabar, Tuytelaars, Thiran, CVPR 2023. Numbers to reach with ViT-S/16, 300 epochs: linear
segmentation (table 1) on Pascal VOC, COCO-Things and COCO-Stuff: COCO 54.5, 55.6, 49.7; COCO+ 60.6, 62.7, 51.7; ImageNet
70.6, 66.1, 52.6; in-context retrieval at 1/1 (CrIBo, table 1) on ADE20K and VOC: COCO 18.0, 47.1; ImageNet 20.6, 64.2.

The teacher's patches of two views are clustered together, once per attention head of its last block; pairs of centroids are
merged one after the other, and the number of clusters is chosen afterwards. Clusters that only one view shows are dropped. The
student's vector of a cluster in one view must predict the teacher's of the same cluster in the other. DINO's loss between whole
views is added.

Where paper and official code part, the code is the default and `--variant paper` follows the text: marginals from the
attention of the class token instead of cosines with its key, query or value; merging by cosine instead of dot product;
marginals and positions of merged centroids from the tokens that they began as; the number of clusters chosen by the semantic
cost alone; assignments and weights from the plan normalised by row; cluster vectors as they are instead of rescaled to the
length of class tokens; teacher temperature 0.07.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.numerics.late_indices import LateIndices
from densebench.options import setting
from densebench.pretrain.croc.merging import Clusters, Rules, merge_clusters, steps
from densebench.pretrain.croc.pictures import merging_picture
from densebench.training.augmentation import ViewSpec
from densebench.training.distillation import Centre, distil
from densebench.training.heads import Head
from densebench.training.image_level import by_image, global_views, image_figures, image_loss
from densebench.training.method import TINY, PrototypePretrainer
from densebench.training.networks import Encoder, Network, Tokens, class_attention
from densebench.training.objective import Loss, Objective, StepContext, Views, check_weights, shares, weighed

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class CrOC(PrototypePretrainer):
    """Hyper-parameters of CrOC."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {**TINY, "object_dim": 256},
        "coco": {"lambda_pos": 4.0, "tokens": "value", "group_size": 128},
        "imagenet": {"lambda_pos": 3.0, "tokens": "key", "group_size": 128, "batch_size": 1024},
    }
    paper: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {
            "marginals": "attention", "merge": "cosine", "follow": "tokens", "quality": "semantic", "assign": "row",
            "object_norm": "none", "teacher_temp": 0.07, "teacher_temp_start": 0.07,
        },
    }  # fmt: skip

    object_dim: int = setting(8192, "number of prototypes for objects", minimum=2, maximum=10_000_000)
    object_weight: float = setting(1.0, "alpha: weight of the dense loss; 0 switches it off", minimum=0)
    image_weight: float = setting(1.0, "weight of the loss between whole views; 0 switches it off", minimum=0)
    tokens: str = setting("value", "vectors that are clustered, from the last block", choices=("query", "key", "value", "last"))
    k_start: int = setting(12, "number of centroids at the start of the clustering", minimum=2, maximum=65_536)
    k_max: int = setting(12, "largest number of clusters that may be chosen", minimum=2, maximum=65_536)
    lambda_pos: float = setting(4.0, "weight of the positional cost in the clustering", minimum=0)
    sharpness: float = setting(20.0, "lambda: inverse of the entropic regularisation of the transport", minimum=0)
    sinkhorn_iterations: int = setting(5, "Sinkhorn iterations in each step", minimum=1, maximum=10_000)
    marginals: str = setting(
        "similarity", "weights of patches: by similarity to the class token, by its attention, or equal",
        choices=("similarity", "attention", "uniform"),
    )  # fmt: skip
    marginal_temp: float = setting(2.0, "temperature of the softmax over similarities", minimum=1e-4)
    merge: str = setting("dot", "similarity by which centroids are merged", choices=("dot", "cosine"))
    follow: str = setting(
        "plan", "what the marginal and position of a merged centroid are computed from", choices=("plan", "tokens")
    )
    quality: str = setting("total", "transport cost by which the number of clusters is chosen", choices=("total", "semantic"))
    assign: str = setting("column", "how the plan is normalised before patches are assigned", choices=("column", "row"))
    object_norm: str = setting(
        "class", "length of cluster vectors: the mean length of class tokens, or unchanged", choices=("class", "none")
    )

    def views(self) -> tuple[ViewSpec, ...]:
        """Return two global views: the first always blurred, the second sometimes blurred and solarised."""
        return global_views(self)

    def head(self, dim: int) -> Head:
        """Return one MLP under two sets of prototypes."""
        outputs = {"image": self.out_dim, "object": self.object_dim}
        return Head(dim, outputs, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim, fixed_norm=self.norm_last_layer)

    def rules(self) -> Rules:
        """Return the rules of the clustering that these hyper-parameters choose."""
        return Rules(
            self.k_start, self.k_max, self.lambda_pos, self.sharpness, self.sinkhorn_iterations, self.marginal_temp,
            self.marginals == "uniform", self.marginals == "attention", self.merge, self.follow, self.quality, self.assign,
        )  # fmt: skip

    def objective(self, encoder: Encoder) -> ClusterDistillation:
        """Return the dense and the global loss of equation 7."""
        return ClusterDistillation(self, encoder)


class ClusterDistillation(Objective):
    """L = alpha L_dense + L_global (equation 7)."""

    def __init__(self, options: CrOC, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.weights = {"image": options.image_weight, "object": options.object_weight}
        check_weights(self.weights)
        self.grid = encoder.grid(options.image_size)
        patches = self.grid[0] * self.grid[1]
        if options.k_start > 2 * patches:
            raise UserError(
                f"--k-start {options.k_start}: two views have {2 * patches} patches; use at most that, or larger views"
            )
        if options.k_max > options.k_start:
            raise UserError(f"--k-max {options.k_max}: the clustering starts with --k-start {options.k_start}; use at most that")
        self.prototypes = {"image": options.out_dim, "object": options.object_dim}
        self.image_centre = Centre(options.out_dim, options.centre_momentum)
        self.object_centre = Centre(options.object_dim, options.centre_momentum)
        self.centres = {"image": self.image_centre, "object": self.object_centre}

    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss: cluster the teacher's patches, and compare clusters and class tokens of student and teacher.

        How many clusters both views show depends on the teacher alone. It is read after the student's work has been queued.
        """
        options = self.options
        pixels = torch.cat(views.pixels)
        with torch.no_grad():
            teacher_tokens = teacher.encode(pixels, qkv=options.tokens != "last" or options.marginals == "attention")
            clusters = self.cluster(teacher_tokens, views, context)
            teacher_objects = self.vectors(clusters, teacher_tokens)
            valid = clusters.valid.unflatten(0, (len(views), -1)).flatten(1)
            shown = LateIndices(valid)
            teacher_views = by_image(teacher.project(teacher_tokens.image), 2)
        student_tokens = student.encode(pixels)
        student_objects = self.vectors(clusters, student_tokens)
        student_views = by_image(student.project(student_tokens.image), 2)
        terms = {
            "image": image_loss(student_views, teacher_views, student, teacher, self.image_centre, options.student_temp, context)
        }
        self.image_centre.see(teacher_views)
        [rows] = shown.indices()
        terms["object"] = self.object_loss(student_objects, teacher_objects, valid, rows, student, teacher, context)
        total = weighed(terms, self.weights)
        figures = image_figures(teacher_tokens.image, teacher_views, teacher, self.image_centre, context)
        figures |= {"clusters": clusters.count.float().mean(), "objects_per_image": valid.sum(dim=1).float().mean()}
        return Loss(total, {name: term.detach() for name, term in terms.items()}, figures)

    def cluster(self, teacher_tokens: Tokens, views: Views, context: StepContext) -> Clusters:
        """Return the clusters of every image and attention head, in fp32: `b * heads` problems, image by image."""
        return merge_clusters(*self.problems(teacher_tokens, views, context))

    def problems(
        self, teacher_tokens: Tokens, views: Views, context: StepContext
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Rules]:
        """Return the arguments of `merge_clusters` for every image and head: tokens, positions, scores, noise, rules."""
        tokens, scores = self.evidence(teacher_tokens)
        heads = len(tokens) // len(views)
        positions = torch.cat([views.positions(0, self.grid), views.positions(1, self.grid)], dim=1)
        positions = positions.repeat_interleave(heads, dim=0)
        noise = context.noise(len(views), heads, tokens.shape[1], device=tokens.device).flatten(0, 1)
        return tokens, positions, scores, noise, replace(self.options.rules(), group=self.options.group_size * heads)

    def evidence(self, teacher_tokens: Tokens) -> tuple[Float[Tensor, "problems joint d"], Float[Tensor, "problems joint"]]:
        """Return the vectors that are clustered, and the score of each patch.

        A score is the attention of the class token of its view to the patch, or a cosine with it, which may be below 0.
        """
        if self.options.tokens == "last":
            every = torch.cat([teacher_tokens.image[:, None], teacher_tokens.patches], dim=1)[:, None]
        else:
            assert teacher_tokens.qkv is not None
            part = teacher_tokens.qkv[PARTS.index(self.options.tokens)]
            every = torch.cat([part[:, :, :1], part[:, :, teacher_tokens.prefix :]], dim=2)
        every = F.normalize(every, dim=3)  # [2b, heads, 1 + n, d]
        if self.options.marginals == "attention":
            scores = class_attention(teacher_tokens)
            scores = scores if every.shape[1] > 1 else scores.mean(dim=1, keepdim=True)
        else:
            scores = (every[:, :, 1:] * every[:, :, :1]).sum(dim=3)
        return _joint(every[:, :, 1:]), _joint(scores)

    def vectors(self, clusters: Clusters, tokens: Tokens) -> Float[Tensor, "2 b objects d"]:
        """Return the vector of each cluster in each view, a weighted sum of the last tokens.

        The clusters of all heads of an image follow each other: objects = heads * most.
        """
        b = len(tokens.image) // 2
        sums = []
        for weights, patches in zip(clusters.weights, tokens.patches.chunk(2), strict=True):
            all_heads = weights.unflatten(0, (b, -1)).transpose(1, 2).flatten(2)  # [b, n, heads * most]
            sums.append(torch.bmm(all_heads.transpose(1, 2), patches))
        vectors = torch.stack(sums)
        if self.options.object_norm == "class":
            vectors = F.normalize(vectors, dim=3) * self._length(tokens.image)
        return vectors

    def _length(self, image: Tensor) -> Tensor:
        """Return the mean length of the class tokens of each image's group, `[b 1 1]`."""
        lengths = image.norm(dim=1).unflatten(0, (2, -1)).mean(dim=0)
        size = self.options.group_size or len(lengths)
        means = [part.mean().expand(len(part)) for part in lengths.split(size)]
        return torch.cat(means)[:, None, None]

    def object_loss(
        self,
        student_objects: Tensor,
        teacher_objects: Tensor,
        valid: Tensor,
        rows: Tensor,
        student: Network,
        teacher: Network,
        context: StepContext,
    ) -> Tensor:
        """Return half of equation 4: the mean over the objects of a group and over both directions.

        rows: the flat indices of the valid objects; the others are never projected.
        """
        with torch.no_grad():
            z_t = teacher.project(teacher_objects.flatten(1, 2)[:, rows]).transpose(0, 1)
        z_s = student.project(student_objects.flatten(1, 2)[:, rows]).transpose(0, 1)
        self.object_centre.see(z_t)
        weight = shares(valid, self.options.group_size).flatten()[rows] / 2
        mix = weight[:, None, None] * (1 - torch.eye(2, device=weight.device))
        prototypes = student.head.prototypes("object"), teacher.head.prototypes("object")
        centre = self.object_centre.value
        return distil(z_s, prototypes[0], z_t, prototypes[1], mix, centre, self.options.student_temp, context.teacher_temp)

    def pictures(self, teacher: Network, views: Views, context: StepContext, images: Images) -> dict[str, Image]:
        """Return a picture of the last steps of the merging, for a few heads (figure 3 of the paper)."""
        teacher_tokens = teacher.encode(
            torch.cat(views.pixels), qkv=self.options.tokens != "last" or self.options.marginals == "attention"
        )
        problems = self.problems(teacher_tokens, views, context)
        chosen = merge_clusters(*problems).count.unflatten(0, (len(views), -1))
        plans = [step.plan.unflatten(0, (len(views), -1)) for step in steps(*problems)]
        return {"clusters": merging_picture(views, plans, chosen, self.grid)}


def _joint(values: Tensor) -> Tensor:
    """Return values of all first and then all second views, `[2b, heads, n, ...]`, on the joint axis: `[b * heads, 2n, ...]`."""
    first, second = values.chunk(2)
    return torch.cat([first, second], dim=2).flatten(0, 1)
