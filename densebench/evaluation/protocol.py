"""An evaluation protocol is a value: a frozen dataclass of options with one method that yields scores."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction, Features
from densebench.files.atomic import cache_root
from densebench.files.cache import Hold, limit_of
from densebench.options import runtime, select, setting
from densebench.processes import from_main, resolve_device, resolve_workers
from densebench.results.score import Point, Score
from densebench.user_code import reduced


def shown_in_pictures(points: Sequence[Point]) -> Point:
    """Return the point whose pictures a protocol draws: all of the data, the first seed."""

    def order(point: Point) -> tuple[float, float]:
        axes = dict(point)
        return float(axes.get("fraction") or 1), float(axes.get("seed") or 0)

    return min(points, key=order)


@dataclass
class Run:
    """What one run of a protocol is to do, and how long it took."""

    limit: int | None = None
    """Use at most this many images of each split, evenly spaced; for trying things out."""
    known: frozenset[Point] = frozenset()
    """Points that an earlier run scored: they are not scored again."""
    pictures: Path | None = None
    """The folder that `--visualise` writes to."""
    drawing: bool = False
    """Whether only pictures are wanted: scores are not used, so what the pictures do not show may be left out."""
    progress_key: str = ""
    """The name under which work in progress is saved, so that a killed run resumes; without one none is saved."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""
    clock: Callable[[], float] = time.perf_counter
    """Returns the time in seconds by which stages are measured; it may stand still while a caller works with a score."""

    def draws(self) -> bool:
        """Return whether pictures are wanted. Of several processes only the main one has a folder for them: all ask together."""
        return from_main(lambda: self.pictures is not None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = self.clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - started

    @contextmanager
    def workspace(self, name: str, processes: int = 1) -> Iterator[Path]:
        """Yield a folder for one kind of work in progress: a lasting one under `progress_key`, else one removed after the block.

        Raises UserError where several `processes` share the folder and there is no key to find it by.
        """
        if self.progress_key:
            folder = cache_root() / "scoring" / f"{self.progress_key}-{name}"
            hold = Hold(folder, {"work": name})  # nobody clears the folder while the block uses it
            yield folder
            del hold
        elif processes > 1:
            raise UserError(f"{processes} processes share their work by its name: give Run a progress_key")
        else:
            with tempfile.TemporaryDirectory(prefix="densebench-") as folder_name:
                yield Path(folder_name)


@dataclass(frozen=True)
class Evaluator(ABC):
    """Base of all protocols. `version` is raised whenever the same settings would give another number.

    A protocol states at least `version`, `presets`, `run` and `headline`. Splits are those of its options `train_split` and
    `eval_split`; a protocol without the first looks at the scored split alone. An option `visualise` is the number of pictures.
    """

    version: ClassVar[int]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Named settings; the first is the default."""
    takes: ClassVar[str] = "label maps"
    """The kind of data set that it scores on: see `Dataset.kind`."""
    needs_background: ClassVar[bool] = False
    """Whether label maps must have a background class; `--set data=scenes` takes another of NAME-... where they have none."""
    draws_later: ClassVar[bool] = True
    """Whether the pictures of a finished record can be drawn without training a head once more."""
    fine_tunes: ClassVar[bool] = False
    """Whether it trains the network itself for hours, so that it cannot score one in the middle of a training."""
    published_as: ClassVar[Mapping[str, str]] = {}
    """Preset -> the name, in the column `protocol` of published.csv, of the published numbers that it reproduces."""
    precision: str = setting(
        "fp32",
        "arithmetic of the backbone and storage of its features; tf32: stored as fp32, all products may be TF32",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    device: str = runtime("auto", "auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    batch_size: int | None = runtime(
        None, "images in one forward pass; none: 16 on the CPU, on a GPU as many as fill it", minimum=1, maximum=65_536
    )
    workers: int | None = runtime(None, "processes that decode images; none: chosen for the machine", minimum=0, maximum=1024)
    decoder: str = runtime(
        "pillow", "what decodes JPEG files: pillow, or turbo (simplejpeg, faster, the same pixels)", choices=("pillow", "turbo")
    )
    cache_limit: float | None = runtime(
        None,
        "GB that the cache may take: folders of features that no run uses make room, the least recently used first; none: "
        "$DENSEBENCH_CACHE_LIMIT, else no limit",
        minimum=0,
    )
    keep_features: bool = runtime(
        False,
        "keep the features of randomly augmented views when the record is complete; else they are removed then, and another "
        "protocol, preset or fraction that has the same views extracts them again",
    )
    gpus: int = runtime(
        1, "processes that the command starts on this machine, one a GPU, as torchrun does", minimum=1, maximum=64
    )

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    @abstractmethod
    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Yield the scores of every point that is not known yet. Raises UserError for what the user can mend.

        The headline comes last of a point's scores: once it is on disk, the point counts as known. Every score states its
        direction, and its digits where its unit is not %.
        """

    @abstractmethod
    def headline(self) -> dict[str, str]:
        """Return the metric and variant that tables show."""

    def decides(self) -> dict[str, Any]:
        """Return the axes of the point that ranks and the headline of a run go by, such as a threshold; {}: with most data."""
        return {}

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> Sequence[Stage]:
        """Return what `run` will extract and compute, in its order, without doing it; nothing where that is not known.

        Every extraction of `run` must be among them: what it stores is estimated, limited and tidied up by this list.
        Raises UserError as `run` does, for instance where a size does not fit the backbone.
        """
        return ()

    def extracted(self, extraction: Extraction) -> Features:
        """Return the features of an extraction, from the cache where it has them."""
        device = resolve_device(self.device)
        workers = resolve_workers(self.workers, len(extraction.items), device)
        return extraction.features(device, self.batch_size, workers, limit_of(self.cache_limit))

    def points(self, dataset: Dataset) -> list[Point]:
        """Return what is to be scored on a data set: one point, unless a protocol sweeps an axis."""
        return [()]

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """Return the training split and the scored split, the same twice where there is no option `train_split`."""
        options = select(self, "setting")
        scored = options.get("eval_split") or dataset.val_split
        return (options["train_split"] or dataset.train_split) if "train_split" in options else scored, scored

    def resolve(self, dataset: Dataset) -> Self:
        """Return the protocol with the data set's values for options that were not given: here the splits."""
        splits = dict(zip(("train_split", "eval_split"), self.splits(dataset), strict=True))
        named: dict[str, Any] = {name: split for name, split in splits.items() if name in select(self, "setting")}
        return replace(self, **named)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return what decides, with the data set, whether two numbers are comparable."""
        return select(self, "setting")

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Return the images of the scored split that count: all, unless a protocol leaves some out."""
        return items

    def source_override(self) -> Backbone | None:
        """Return what an option names to be scored instead of a backbone, or None; its digest tells results apart."""
        return None

    def alone(self) -> str:
        """Return a given option that allows only one backbone and one data set; "" where there is none."""
        return ""

    @classmethod
    def published_names(cls, preset: str, layer: str) -> tuple[str, ...]:
        """Return the names of the published numbers that a preset reproduces with features of `layer` (one or several).

        A class that derives from another protocol reproduces none of them unless it says so itself.
        """
        names = vars(cls).get("published_as", {})
        return (names[preset],) if preset in names else ()
