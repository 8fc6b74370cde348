"""An evaluation protocol is a value: a frozen dataclass of options with one method that yields scores."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from densebench.errors import UserError
from densebench.files.atomic import cache_root
from densebench.files.cache import Hold
from densebench.options import runtime, select, setting
from densebench.results.score import Point, Score

if TYPE_CHECKING:
    from densebench.backbones.backbone import Backbone
    from densebench.datasets.dataset import Dataset, Item


def shown_in_pictures(points: Sequence[Point]) -> Point:
    """Return the point of which a protocol draws pictures unless asked for another: all of the data, the first seed."""

    def order(point: Point) -> tuple[float, float]:
        axes = dict(point)
        return float(axes.get("fraction") or 1), float(axes.get("seed") or 0)

    return min(points, key=order)


@dataclass
class Run:
    """What one run of a protocol is asked for, and what it reports besides scores."""

    limit: int | None = None
    """Use so many images of each split, evenly spaced; for trying things out."""
    known: frozenset[Point] = frozenset()
    """Points that an earlier run scored: they are not scored again."""
    pictures: Path | None = None
    """Where `--visualise` writes."""
    drawing: bool = False
    """Only pictures are wanted and scores are not used, so what the pictures do not show may be left out."""
    progress_key: str = ""
    """Names the work in progress, so that a killed run resumes from there; without one no work is kept."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def workspace(self, name: str, processes: int = 1) -> Iterator[Path]:
        """Yield the folder of one kind of work in progress: a lasting one under `progress_key`, else one removed after the block.

        Raises UserError where `processes` that share the folder have no key to find it by.
        """
        if self.progress_key:
            folder = cache_root() / "scoring" / f"{self.progress_key}-{name}"
            hold = Hold(folder, {"work": name})  # as long as the block uses it, nobody clears it
            yield folder
            del hold
        elif processes > 1:
            raise UserError(f"{processes} processes share their work by its name: give Run a progress_key")
        else:
            with tempfile.TemporaryDirectory(prefix="densebench-") as place:
                yield Path(place)


@dataclass(frozen=True)
class Evaluator(ABC):
    """Base of all protocols. `version` is raised whenever the same settings would give another number."""

    version: ClassVar[int]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Named settings; the first is the default."""
    takes: ClassVar[str] = "label maps"
    """The kind of data set that it is for: see `Dataset.kind`."""
    draws_later: ClassVar[bool] = True
    """Return whether the pictures of a finished record can be drawn without training a head once more."""
    several_processes: ClassVar[bool] = False
    """Whether torchrun may run it: then every process calls `run`, and the first one alone gets scores."""
    precision: str = setting(
        "fp32",
        "arithmetic of the backbone and storage of its features; tf32: stored as fp32, all products may be TF32",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    device: str = runtime("auto", "auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    batch_size: int = runtime(16, "images in one forward pass", minimum=1, maximum=65_536)
    workers: int | None = runtime(None, "processes that decode images; none chooses", minimum=0, maximum=1024)

    @abstractmethod
    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Yield the scores of every point that is not known yet. Raises UserError for what the user can mend.

        The headline comes last of a point's scores: once it is on disk, the point counts as known. Every score states its
        direction, and its digits where its unit is not %.
        """

    @abstractmethod
    def points(self, dataset: Dataset) -> list[Point]:
        """What is to be scored on a data set."""

    @abstractmethod
    def resolve(self, dataset: Dataset) -> Evaluator:
        """Fill in settings that were left to the data set."""

    @abstractmethod
    def headline(self) -> dict[str, str]:
        """The metric and variant that tables show."""

    @abstractmethod
    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """The training split and the split that is scored."""

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Those images of the scored split that are scored: all, unless a protocol leaves some out."""
        return items

    def source_override(self) -> Backbone | None:
        """What is scored in place of a backbone, if an option names it; its digest tells results apart."""
        return None

    def alone(self) -> str:
        """An option that was given and goes with one backbone and one data set; empty where there is none."""
        return ""

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """What decides, with the data set, whether two numbers are comparable."""
        return select(self, "setting")
