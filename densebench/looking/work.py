"""The work of a look: one backbone after the other is loaded, looked at, and let go; one that fails does not end the others."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from densebench.backbones.backbone import Backbone
from densebench.console import notice, one_line, warn
from densebench.errors import Stopped, UserError, out_of_memory
from densebench.evaluation.plan import Requested, unique_name
from densebench.features.cost import counted
from densebench.looking import measures
from densebench.looking.arguments import Settings
from densebench.looking.looked import Picture, Seen, Tracks
from densebench.looking.passes import extracted, normalised, shape, view
from densebench.looking.queries import Place
from densebench.looking.regions import Maps, clustered, renumbered
from densebench.looking.tracks import Video, followed
from densebench.looking.views import views
from densebench.user_code import guarded


@dataclass
class Work:
    """What is looked at, and what was found so far. The first backbone that works numbers the clusters of the others."""

    pictures: Sequence[Picture]
    queries: Sequence[Sequence[Place]]
    videos: Sequence[Video]
    settings: Settings
    failures: list[BaseException] = field(default_factory=list)
    clusters: Maps | None = None
    regions: dict[str, Maps] = field(default_factory=dict)
    sheets: list[dict[str, tuple[Image.Image, ...]]] = field(default_factory=list)
    before: Callable[[], Backbone | None] = lambda: None
    """Returns the backbone before, if it still takes memory."""

    def all(self, requested: Sequence[Requested]) -> tuple[Seen, ...]:
        """Return what each backbone makes of the pictures. Raises the first error where all of them fail."""
        seen = [self.one(each) for each in requested]
        if len(self.failures) == len(requested):
            raise self.failures[0]
        names = unique_names([each.name for each in seen])
        return tuple(replace(each, name=name) for each, name in zip(seen, names, strict=True))

    def one(self, requested: Requested) -> Seen:
        """Return what a backbone makes of the pictures, or, where it fails, why; that is also reported on stderr."""
        found: dict[str, tuple[Image.Image, ...]] = {}
        try:
            with guarded():
                seen = self._looked(requested, found)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:
            seen = Seen(requested.label, requested.label, problem=_reason(error))
            self.failures.append(error)
            found = {}
            warn(f"look: {requested.label}: {seen.problem}")
        self.sheets.append(found)
        return seen

    def _looked(self, requested: Requested, found: dict[str, tuple[Image.Image, ...]]) -> Seen:
        settings, images = self.settings, [picture.image for picture in self.pictures]
        notice(f"look: {one_line(requested.label)}")
        if self.before() is not None:
            gc.collect()  # two large backbones at a time may be too many
        backbone = requested.load()
        self.before = weakref.ref(backbone)
        through = extracted(backbone, images, settings.image_size, settings.device)
        first = view(images[0], shape(*images[0].size, backbone.multiple, settings.image_size))
        one_pass = counted(backbone, normalised(backbone, first, settings.device))
        costs = measures.facts(backbone, through.per_second, one_pass)
        clusters = clustered(through.grids, settings.clusters, settings.seed)
        clusters = renumbered(clusters, self.clusters) if self.clusters else clusters
        shown = views(through, clusters, self.queries, settings.foreground)
        figures = measures.figures(backbone, images, through, settings.image_size, settings.device, settings.seed)
        for video in self.videos:
            sheet, regions = followed(backbone, video, settings, self.regions.get(video.name))
            found[video.name] = sheet
            self.regions.setdefault(video.name, regions)
        self.clusters = self.clusters or clusters
        return Seen(backbone.info.name or backbone.spec, backbone.spec, backbone.stride, costs, figures, shown)

    def tracks(self, seen: Sequence[Seen]) -> tuple[Tracks, ...]:
        """Return the sheets of each video, by the names that the backbones have in the end."""
        return tuple(
            Tracks(
                video.name,
                tuple(video.numbers[number] for number in video.shown),
                {each.name: found[video.name] for each, found in zip(seen, self.sheets, strict=True) if video.name in found},
            )
            for video in self.videos
        )


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names, each once."""
    result: list[str] = []
    for name in names:
        result.append(unique_name(name, result))
    return result


def _reason(error: BaseException) -> str:
    """Return in one line why a backbone failed. What is no mistake of the user's is printed with its traceback."""
    if isinstance(error, UserError):
        text = str(error)
    elif out_of_memory(error):
        text = "out of memory; give a smaller --image-size"
    else:
        traceback.print_exception(error)
        text = f"{type(error).__name__}: {error}"
    seen: BaseException | None = error
    while seen is not None:  # their variables hold the model
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    return one_line(text)
