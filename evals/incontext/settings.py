"""The settings of in-context retrieval, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evals.incontext.retrieval import Retrieval
from densebench.evals.incontext.voting import Voting
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import FewShot
from densebench.features.extract import DTYPES, Extraction, Normalisation
from densebench.features.views import View
from densebench.numerics.search import EXACT_ENGINES
from densebench.options import setting
from densebench.processes import here, resolve_device
from densebench.results.score import Point

IMAGENET_MEAN = (0.485, 0.456, 0.406)
STATISTICS = {
    "imagenet": Normalisation(IMAGENET_MEAN, (0.229, 0.224, 0.225)),
    "hummingbird": Normalisation(IMAGENET_MEAN, (0.229, 0.224, 0.255)),
}


@dataclass(frozen=True)
class Settings(FewShot):
    """How views are made, patches labelled, memories filled and searched, and what is scored."""

    resize: str = setting(
        "square", "how images are resized: to a square, or (native) each side rounded to the stride", choices=("square", "native")
    )
    mask_resample: str = setting("nearest-exact", "how label maps are resized", choices=("nearest-exact", "nearest"))
    augment_epochs: int = setting(
        1, "number of randomly jittered and cropped views of each training image; 0: the image itself", minimum=0, maximum=10_000
    )
    hue: float = setting(0.1, "largest turn of the hue in these views, in turns; 0.5 reaches every hue", minimum=0, maximum=0.5)
    colour: str = setting("backbone", "colour statistics that normalise images", choices=("backbone", "imagenet", "hummingbird"))
    memory_size: int | None = setting(10_240_000, "most patches in the memory; none: no limit", minimum=1, maximum=1_000_000_000)
    memory_norm: str = setting("channels", "axis along which the memory is normalised (cosine)", choices=("channels", "patches"))
    standardise: bool = setting(False, "give each feature mean 0 and deviation 1 over the memory")
    labels: str = setting(
        "soft",
        "what a patch is labelled with: shares of classes, majority class or its pixels",
        choices=("soft", "majority", "pixels"),
    )
    void: str = setting("drop", "void pixels in the memory: dropped or taken as class 0", choices=("drop", "background"))
    neighbours: tuple[int, ...] = setting(
        (30,),
        "number of neighbours of a query; of several numbers the best on a tenth of train is taken",
        minimum=1,
        maximum=1_000_000,
    )
    metric: tuple[str, ...] = setting(
        ("cosine",), "distance of the search; of several the best on a tenth of train is taken", choices=("cosine", "l2")
    )
    weighting: str = setting("softmax", "weights of the neighbours", choices=("softmax", "equal"))
    temperature: float = setting(0.02, "temperature of the softmax over cosines", minimum=1e-6)
    score_at: str = setting(
        "view", "resolution that is scored: the resized view, the original image, or patches", choices=("view", "native", "patch")
    )
    variant: str = setting("identity", "mIoU that is the headline", choices=("identity", "hungarian"))
    engine: str = setting("exact", "search engine", choices=("exact", "faiss", "faiss-ivf", "scann"))

    def headline(self) -> dict[str, str]:
        """Return what tables show: mIoU in the preset's variant."""
        return {"metric": "miou", "variant": self.variant}

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings that decide the number.

        All exact engines count as the same setting; native images have no size, and views that are not augmented no hue.
        """
        engine = "exact" if self.engine in EXACT_ENGINES else self.engine
        settings = {**super().settings(dataset), "engine": engine, "hue": self.hue if self.augment_epochs else None}
        return {**settings, "image_size": None} if self.resize == "native" else settings

    def resolve(self, dataset: Dataset) -> Settings:
        """Fill in the splits. Raises UserError for settings that contradict each other."""
        if self.labels == "pixels" and (self.weighting, self.score_at) != ("equal", "view"):
            raise UserError("--labels pixels votes pixel by pixel: it goes with --weighting equal and --score-at view")
        if self.memory_norm == "patches" and self.metric != ("cosine",):
            raise UserError("--memory-norm patches goes with --metric cosine alone")
        if self.resize == "native" and self.image_size is not None:
            raise UserError(f"--image-size {self.image_size} goes with --resize square; native images keep their size")
        return super().resolve(dataset)

    def query_view(self, backbone: Backbone, dataset: Dataset) -> View:
        """Return the view of a validation image.

        The default of 512 px is rounded down to a multiple of the stride (504 for patches of 14), as in the papers.
        Raises UserError for a given size that is no multiple; it names the nearest two that are.
        """
        stride, size = backbone.multiple, self.image_size
        if self.resize == "square" and size is None:
            size = max(1, dataset.image_size_hint // stride) * stride
        if size is not None:
            backbone.check_size(size, size)
        return View(stride, size, self.resample, self.mask_resample)  # type: ignore[arg-type]

    def check_sizes(self, points: Sequence[Point], sizes: Sequence[int]) -> None:
        """Raise UserError where a subset's memory holds fewer rows than there are neighbours to find."""
        for point, size in zip(points, sizes, strict=True):
            if size < max(self.neighbours):
                where = ", ".join(f"{name} {value}" for name, value in point if value is not None)
                raise UserError(
                    f"--neighbours {max(self.neighbours)}: the memory of {where} holds {size} patches; "
                    "ask for fewer neighbours or a larger share of the images"
                )

    def memory_views(self, plain: View) -> list[View]:
        """Return the views of the training images: random ones, or the plain one where none are asked for."""
        return [replace(plain, augment=True, epoch=epoch, hue=self.hue) for epoch in range(self.augment_epochs)] or [plain]

    def extraction(self, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View) -> Extraction:
        """Return what to extract: the features of the items under a view."""
        label = f"features {'of augmented views ' + str(view.epoch + 1) if view.augment else ''}".strip()
        colours = STATISTICS.get(self.colour)
        return Extraction(backbone, dataset, items, view, normalisation=colours, precision=self.precision, label=label)

    def counted_names(self, space: LabelSpace) -> tuple[str, ...]:
        """Return the names of what is counted; where pixels vote, void may win, and is never right (CAPI)."""
        return (*space.names, "void") if self.labels == "pixels" else tuple(space.names)

    def retrieval(self, space: LabelSpace) -> Retrieval:
        """Return how memories are filled and searched."""
        voting = Voting(self.labels, self.weighting, self.temperature, self.engine, space.classes)
        return Retrieval(
            voting, self.memory_size, self.memory_norm, self.standardise, self.neighbours, self.metric, DTYPES[self.precision],
            here(resolve_device(self.device)).device,
        )  # fmt: skip

    def groups(self, points: int) -> list[list[int]]:
        """Return groups of points that share a memory: all of them, unless the values of its rows depend on the subset."""
        alone = self.standardise or self.memory_norm == "patches" or len(self.neighbours) * len(self.metric) > 1
        return [[point] for point in range(points)] if alone else [list(range(points))]
