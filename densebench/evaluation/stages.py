"""Stages: the parts of a run that take time and room, as a protocol declares them before they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from densebench.datasets.dataset import Item
from densebench.features.extract import Extraction

Sample = Callable[[Sequence[Item]], float | None]
"""Does a part of the work of a stage, for a few of its images. It returns the share of the stage that this was; None: the share
of the images."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a run: features that are extracted and stored, or other work on images.

    passes: how often each image is worked on. sample: does a small part of the work, to be timed; without one, and without an
    extraction, the time of the stage cannot be estimated.
    """

    name: str
    items: Sequence[Item]
    extraction: Extraction | None = None
    passes: float = 1.0
    sample: Sample | None = None

    @property
    def images(self) -> int:
        """How many images are worked on; one that is worked on several times counts as often."""
        return round(len(self.items) * self.passes)
