"""FLSL: feature-level self-supervised learning by mean shift and k-means.

Su, Netchaev, Li, Ji: FLSL: Feature-level Self-supervised Learning, NeurIPS 2023. Numbers to reach, ImageNet, 300 epochs: Mask
R-CNN on COCO (tables 1 and 2) ViT-S/16 44.9 box and 40.8 mask AP, ViT-S/8 46.5 and 42.1, ViT-B/16 (ViTDet) 53.1 and 47.0;
DAVIS 2017 (table 4) J&F ViT-S/16 65.6, ViT-S/8 73.5; 100 epochs: bbox-aligned k-NN for 4,096 centroids 72.4.

A ViT without class token, with fixed sine-cosine positions. The teacher sees most of an image, the student crops of what the
teacher sees. Some patches of the student are queries; each moves to the mode of its cluster in its own view (self-attention
without parameters) and in the teacher's (cross-attention). A query should be near its mode, the two modes should belong to the
same centroid, and all centroids should be used (equation 13):

    L = v |z - mode|^2 + eta H(p(mode+), p(mode)) + gamma KL(mean p || uniform).

The released code does not run (arguments are passed in another order than declared, methods are called that the wrapped networks
do not have, a tuple is assigned to). So the paper and the helper functions of the code are followed:
- distances are of unit vectors, 2 - 2 cos (section 5.6 and the code);
- attention multiplies dot products of layer-normed tokens by 0.1 / sqrt(384) and 0.2 / sqrt(384), for every width, as in the
  code (`--self-attention 0.1 --cross-attention 0.2`); training is said to collapse where the second is less than the first;
- queries are the first patch of each window of a grid, 3 x 3 in large crops, as in the code (its README asks for 2 x 2 and for
  local crops from 0.05 on, by flags that the code does not have); `--variant paper` takes a random patch of each window;
- 4,096 centroids as in the paper (the code's default is 8,192); no centre of the teacher and no Sinkhorn by default
  (the paper's ablation is a softmax along the batch); the warm-up is a tenth of 300 epochs, to be changed with the length;
- crops of the student are cut from the image at once, not from the teacher's resized crop, so nothing is resampled twice;
- no positives at projected positions early in training: the paper mentions them, the code has none;
- second stage (`--previous ckpt:DIR`): a finished first stage sees the same crops without colour changes. The attention between
  its tokens before the last block is sharpened to a mask, which replaces a share of the cross-attention: all of it at the start,
  `--previous-share` at the end (by default 1, as in the code).

The mean p of the third term is taken over all processes, but over one micro-batch: with `--accumulate` it is a little larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from densebench.backbones.timm_models import is_plain_vit, probe
from densebench.datasets.unlabelled import Images
from densebench.errors import UserError
from densebench.options import setting
from densebench.pretrain.flsl.mean_shift import attention, grid_queries, mean_shift, sharpened, windows
from densebench.pretrain.flsl.pictures import modes_picture
from densebench.processes import resolve_precision
from densebench.training.augmentation import ViewSpec
from densebench.training.distillation import Centre, balance, distil, entropy, volume
from densebench.training.heads import Head
from densebench.training.image_level import spread
from densebench.training.method import TINY, PrototypePretrainer
from densebench.training.networks import Encoder, Network, arch_of, create_patch_encoder, initial_encoder
from densebench.training.objective import Loss, Objective, StepContext, Views, check_weights, weighed

WIDTH = 384  # the scales of attention are given for tokens of this width
SHARPNESS = 1e4


@dataclass(frozen=True)
class FLSL(PrototypePretrainer):
    """Hyper-parameters of FLSL."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            **TINY, "local_size": 48, "window": 2, "local_window": 1, "self_attention": 2.4, "cross_attention": 4.8,
            "teacher_temp": 0.04,
        },
        "imagenet": {},
    }  # fmt: skip
    paper: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {"queries": "random"}}
    class_token: ClassVar[bool] = False

    global_scale: tuple[float, float] = setting((0.8, 1.0), "smallest and largest share of the image that the teacher sees")
    student_scale: tuple[float, float] = setting(
        (0.5, 1.0), "smallest and largest share of the teacher's view in the student's large crop"
    )
    local_scale: tuple[float, float] = setting((0.1, 0.4), "smallest and largest share of the teacher's view in a small crop")
    local_crops: int = setting(2, "number of small crops of the student", minimum=0, maximum=1000)
    local_size: int = setting(96, "side of the small crops, px", minimum=8, maximum=16_384)
    batch_size: int = setting(512, "images a step, over all processes", minimum=1, maximum=65_536)
    warmup_epochs: float = setting(30.0, "epochs in which the learning rate rises from 0", minimum=0, maximum=1_000_000)
    out_dim: int = setting(4096, "K: number of centroids", minimum=2, maximum=10_000_000)
    teacher_temp: float = setting(0.07, "temperature of the teacher after its warm-up", minimum=1e-4)
    teacher_temp_epochs: int = setting(
        30, "epochs in which the teacher's temperature moves from start to end", minimum=0, maximum=1_000_000
    )
    intra_weight: float = setting(0.03, "v: weight of the distance of a query to the mode in its own view", minimum=0)
    inter_weight: float = setting(1.0, "eta: weight of the cross-entropy between modes in two views", minimum=0)
    volume_weight: float = setting(5.0, "gamma: weight of the term that spreads queries over all centroids", minimum=0)
    self_attention: float = setting(0.1, "inverse temperature of the mean shift within a view, times sqrt(384)", minimum=0)
    cross_attention: float = setting(
        0.2, "inverse temperature of the mean shift in the teacher's view, times sqrt(384)", minimum=0
    )
    queries: str = setting("first", "patch of each window that is a query", choices=("first", "random"))
    window: int = setting(3, "side of the windows of large crops, in patches", minimum=1, maximum=1024)
    local_window: int = setting(2, "side of the windows of small crops, in patches", minimum=1, maximum=1024)
    centre: bool = setting(False, "subtract a moving average from the teacher's logits")
    sinkhorn: int = setting(0, "Sinkhorn iterations that spread the teacher's targets evenly; 0: none", minimum=0, maximum=10_000)
    previous: str | None = setting(None, "ckpt:DIR of a first stage, whose attention guides this second stage")
    previous_attention: float = setting(0.2, "inverse temperature of the first stage's attention, times sqrt(384)", minimum=0)
    previous_share: float = setting(
        1.0, "share of the first stage's attention in the cross-attention at the end; it is 1 at the start", minimum=0
    )

    def views(self) -> tuple[ViewSpec, ...]:
        """Return the teacher's view and the student's crops of it, none mirrored; in a second stage also all in plain colours."""
        shared: dict[str, Any] = {"strengths": self.colour_jitter, "grey": self.grey, "sigma": self.blur_sigma}
        shared |= {"flip": 0.0, "blur": 0.5, "other": (0.1, 0.2)}
        whole = ViewSpec(self.image_size, self.global_scale, **shared)
        large = ViewSpec(self.image_size, self.student_scale, inside=0, **shared)
        small = ViewSpec(self.local_size, self.local_scale, inside=0, **shared)
        specs = (whole, large, *[small] * self.local_crops)
        if self.previous is None:
            return specs
        plain: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "other": None, "inside": None}
        return *specs, *(replace(spec, like=number, **plain) for number, spec in enumerate(specs))

    def encoder(self) -> Encoder:
        """Return a ViT without class token and with fixed sine-cosine positions."""
        return create_patch_encoder(self.arch, self.image_size, self.drop_path)

    def head(self, dim: int) -> Head:
        """Return an MLP under the centroids."""
        outputs = {"mode": self.out_dim}
        return Head(dim, outputs, hidden=self.hidden_dim, bottleneck=self.bottleneck_dim, fixed_norm=self.norm_last_layer)

    def objective(self, encoder: Encoder) -> BilevelClustering:
        """Return the loss of equation 13."""
        return BilevelClustering(self, encoder)

    def scheduled(self, steps: int, per_epoch: int) -> dict[str, np.ndarray]:
        """Return the teacher's temperature; in a second stage also the share of the first stage in the cross-attention."""
        from densebench.training.optimisation import cosine

        share = {} if self.previous is None else {"previous_share": cosine(1.0, self.previous_share, steps)}
        return {**super().scheduled(steps, per_epoch), **share}


class BilevelClustering(Objective):
    """L = v |z - mode|^2 + eta H(p(mode+), p(mode)) + gamma KL(mean p || uniform) (equation 13), means over all queries."""

    def __init__(self, options: FLSL, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.weights = {"intra": options.intra_weight, "inter": options.inter_weight, "volume": options.volume_weight}
        check_weights(self.weights)
        _check(options)
        self.grids = [encoder.grid(spec.size) for spec in options.views()]
        self.crops = range(1, 2 + options.local_crops)
        self.queries = {
            crop: windows(self.grids[crop], options.window if crop == 1 else options.local_window) for crop in self.crops
        }
        self.prototypes = {"mode": options.out_dim}
        self.centre = Centre(options.out_dim, options.centre_momentum)
        self.centres = {"mode": self.centre}
        self._previous: list[Network] = []  # in a list, so that it is no part of saved states: it has its own checkpoint
        if options.previous is not None:
            precision = resolve_precision(options.precision, options.device)
            self._previous = [Network(first_stage(options.previous, encoder), nn.Identity(), precision)]

    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss: move the queries to their modes in both views, and compare the modes."""
        options = self.options
        with torch.no_grad():
            teacher_tokens = teacher.encode(views.pixels[0]).patches
            guides = self.guides(views)
        queries, modes, positives = [], [], []
        for crop, tokens in zip(self.crops, self.student_tokens(student, views), strict=True):
            chosen = self.chosen(crop, context, len(views), tokens.device)
            z = _rows(tokens, chosen)
            queries.append(z)
            modes.append(mean_shift(z, tokens, options.self_attention / WIDTH**0.5))
            with torch.no_grad():
                weights = attention(z, teacher_tokens, options.cross_attention / WIDTH**0.5)
                if guides:
                    weights = torch.lerp(weights, self.guide(guides, crop, chosen), context.scheduled["previous_share"])
                positives.append(torch.bmm(weights, teacher_tokens))
        z, mode, positive = (torch.cat(parts, dim=1).flatten(0, 1) for parts in (queries, modes, positives))
        student_modes = student.project(mode)
        with torch.no_grad():
            teacher_modes = teacher.project(positive)
        prototypes = student.head.prototypes("mode"), teacher.head.prototypes("mode")
        centre = self.targets_centre(teacher_modes, prototypes[1], context)
        temps = options.student_temp, context.teacher_temp
        mix = student_modes.new_full((len(student_modes), 1, 1), 1 / len(student_modes))
        terms = {
            "intra": (2 - 2 * F.cosine_similarity(z, mode, dim=1)).mean(),
            "inter": distil(student_modes[:, None], prototypes[0], teacher_modes[:, None], prototypes[1], mix, centre, *temps),
            "volume": volume(student_modes, prototypes[0], options.student_temp),
        }
        figures = {}
        if context.logging:
            certainty = entropy(teacher_modes, prototypes[1], centre, context.teacher_temp)
            figures = {"teacher_entropy": certainty, "feature_std": spread(teacher_tokens.flatten(0, 1))}
        return Loss(weighed(terms, self.weights), {name: term.detach() for name, term in terms.items()}, figures)

    def student_tokens(self, student: Network, views: Views) -> list[Float[Tensor, "b n d"]]:
        """Return the student's tokens of each of its crops. Crops of the same size are encoded in one pass."""
        large = student.encode(views.pixels[1]).patches
        small = [views.pixels[crop] for crop in self.crops[1:]]
        return [large, *(student.encode(torch.cat(small)).patches.chunk(len(small)) if small else ())]

    def chosen(self, crop: int, context: StepContext, images: int, device: torch.device) -> Int[Tensor, "b q"]:
        """Return the queries of a crop, as flat indices of its patches."""
        window = self.options.window if crop == 1 else self.options.local_window
        noise = context.noise(images, 2 + self.queries[crop], device=device, name=f"queries {crop}")
        return grid_queries(noise, self.grids[crop], window, self.options.queries)

    def targets_centre(self, teacher_modes: Tensor, prototypes: Tensor, context: StepContext) -> Float[Tensor, " k"]:
        """Return what is subtracted from the teacher's logits: zeros, a moving average, or the centre that Sinkhorn gives."""
        if self.options.sinkhorn:
            return balance(teacher_modes, prototypes, context.teacher_temp, self.options.sinkhorn)
        if self.options.centre:
            self.centre.see(teacher_modes)
        return self.centre.value

    def guides(self, views: Views) -> list[Float[Tensor, "b n d"]]:
        """Return the first stage's tokens of all views without colour changes; an empty list without a first stage."""
        if not self._previous:
            return []
        network = self._previous[0].to(views.pixels[0].device)
        return [network.encode(pixels).patches for pixels in views.pixels[len(self.grids) // 2 :]]

    def guide(self, guides: list[Tensor], crop: int, chosen: Tensor) -> Float[Tensor, "b q n"]:
        """Return the first stage's attention from the queries of a crop to the teacher's view, as a mask of sum 1."""
        scale = self.options.previous_attention / WIDTH**0.5
        return sharpened(attention(_rows(guides[crop], chosen), guides[0], scale), SHARPNESS)

    def pictures(self, teacher: Network, views: Views, context: StepContext, images: Images) -> dict[str, Image]:
        """Return a picture of the centroids of all patches in the teacher's view and the large crop, and of some attention."""
        whole, large = (teacher.encode(views.pixels[view]).patches for view in (0, 1))
        self_scale, cross_scale = self.options.self_attention / WIDTH**0.5, self.options.cross_attention / WIDTH**0.5
        prototypes = teacher.head.prototypes("mode")
        labels = [(teacher.project(mean_shift(part, part, self_scale)) @ prototypes.T).argmax(dim=2) for part in (whole, large)]
        chosen = self.chosen(1, context, len(views), whole.device)
        z = _rows(large, chosen)
        maps = attention(z, large, self_scale), attention(z, whole, cross_scale)
        return {"modes": modes_picture(views, labels, chosen, maps, self.grids[0])}


def _check(options: FLSL) -> None:
    """Raise UserError for options that do not go together."""
    if options.centre and options.sinkhorn:
        raise UserError(f"--centre and --sinkhorn {options.sinkhorn} both set the teacher's centre; give one of them")
    if options.previous_share > 1:
        raise UserError(f"--previous-share {options.previous_share:g}: it is a share, at most 1")
    guided = (options.previous_share, options.previous_attention) != (FLSL.previous_share, FLSL.previous_attention)
    if options.previous is None and guided:
        raise UserError("--previous-share and --previous-attention are of a second stage; give --previous ckpt:DIR, too")


def _rows(tokens: Float[Tensor, "b n d"], chosen: Int[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
    """Return the tokens at these indices."""
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))


def first_stage(spec: str, encoder: Encoder) -> Encoder:
    """Return the frozen encoder of a first stage, without its last block and norm.

    Raises UserError where it is no plain ViT or its patch size differs.
    """
    arch = arch_of(spec, "--previous")
    like = probe(arch)
    if not is_plain_vit(like):
        raise UserError(f"--previous {spec} is no plain ViT; give the folder of a run of flsl")
    patch = int(like.patch_embed.patch_size[0])
    if patch != encoder.patch:
        raise UserError(f"--previous {spec} has patches of {patch} px, {encoder.arch} of {encoder.patch}; they must be equal")
    previous = initial_encoder(spec, None, arch, patch, 0.0, class_token=False, flag="--previous")
    previous.model.blocks = previous.model.blocks[:-1]
    previous.model.norm = nn.Identity()
    return previous.requires_grad_(False).eval()
