"""Video object segmentation: the first frame's masks, carried through a video by frozen features.

No training: every patch takes the labels of its most similar patches in the first frame and the last few ones (Jabri et al.,
Space-Time Correspondence as a Contrastive Random Walk, NeurIPS 2020), scored by J and F of DAVIS (`densebench.numerics.video`).

- dino: as in DINO's code (Caron et al., ICCV 2021; FLSL, Su et al., NeurIPS 2023, table 4, uses the same file). Short side 480
  px, long side rounded down to a multiple of 64, bilinear without antialiasing (OpenCV's on bytes; ours rounds to bytes as well,
  and may differ by 1/255); the last layer's normalised features; the first frame and the last 7; a square window of 12 patches to
  each side (FLSL's text calls it 12 x 12); the 5 most similar patches of all frames together, exp(cosine / 0.1); masks upsampled
  bilinearly by the patch size, every object's mask stretched to 0..1 over the frame, the object of the greatest value taken at
  each pixel, and the ids resized by nearest neighbours to the video's original size. Red is normalised by 0.228 instead of 0.229
  (`--colour`; only where the backbone has ImageNet's statistics).
- dinov3: as in the notebook of DINOv3 (Simeoni et al., 2025): short side 960, both sides rounded up to multiples of the patch,
  bicubic; a round window; exp(cosine / 0.2); masks upsampled by nearest neighbours to the video's original size. A mask with the
  same value everywhere becomes 0.

The first frame's masks are sampled at the centres of patches, so an object smaller than a patch may vanish; a notice names it.
Where patches do not divide the sides, DINO's code crops and shifts by less than a patch; here both sides are resized to
multiples.

`--predictions DIR` scores given masks, <sequence>/<frame>.png, by the same measure and without a backbone. Sequences are
read frame by frame: memory holds the context frames of as many sequences as `--batch-size`, whatever their length. Features are
not cached: a whole data set's would take gigabytes, and every frame is needed once. Sequences are dealt out to processes, and
each process writes the masks of its own to the folder of --save-predictions.

Numbers to reach (DAVIS 2017 val, J&F, J, F; FLSL table 4): DINO ViT-S/16 61.8, 60.2, 63.4; ViT-B/16 62.3, 60.7, 63.9; ViT-S/8
69.9, 66.6, 73.1; FLSL ViT-S/16 65.6, 62.4, 69.4; ViT-B/16 66.1, 62.9, 70.0; ViT-S/8 73.5, 69.9, 78.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from densebench.backbones.backbone import Backbone
from densebench.console import notice, progress, warn
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.evals.vos.frames import FrameSize
from densebench.evals.vos.masks import GivenMasks, SavedMasks, Sheets
from densebench.evals.vos.scoring import Tally, portions, scores
from densebench.evals.vos.tracking import Tracker, Tracking
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.pipeline import BATCH
from densebench.numerics.propagation import Window
from densebench.options import flags, runtime, setting
from densebench.processes import collected, from_main, rank, resolve_device, resolve_workers, world_size
from densebench.results.score import Score

LEAST_FRAMES = 3  # the first and the last one are not scored


@dataclass(frozen=True)
class Vos(Evaluator):
    """Options of label propagation; see the module for what the presets are."""

    takes: ClassVar[str] = "videos"
    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {"dino": "vos-davis"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dino": {},
        "dinov3": {
            "short_side": 960,
            "rounding": "up",
            "resample": "bicubic",
            "colour": "backbone",
            "window": "circle",
            "temperature": 0.2,
            "mask_upsample": "nearest",
        },
    }

    short_side: int = setting(480, "short side to which frames are resized, in px", minimum=1, maximum=16_384)
    rounding: str = setting(
        "down", "how sides are rounded to multiples of the stride; down: the long one to 64 first", choices=("down", "up")
    )
    resample: str = setting("bilinear", "how frames are resized", choices=("bilinear", "bicubic"))
    colour: str = setting(
        "dino", "colour statistics that normalise frames; dino: ImageNet's with 0.228 for red", choices=("backbone", "dino")
    )
    context: int = setting(
        7, "number of preceding frames that labels are taken from, besides the first frame", minimum=0, maximum=10_000
    )
    radius: int | None = setting(12, "radius of the search window in patches; none: the whole frame", minimum=1, maximum=1024)
    window: str = setting("square", "shape of the search window", choices=("square", "circle"))
    neighbours: int = setting(
        5, "number of most similar patches that a patch takes its labels from", minimum=1, maximum=1_000_000
    )
    temperature: float = setting(0.1, "temperature of the weights, exp(cosine / temperature)", minimum=1e-6)
    mask_upsample: str = setting(
        "bilinear", "how masks are upsampled from patches to pixels", choices=("bilinear", "nearest"), recorded="upsample"
    )
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    predictions: str | None = setting(None, "folder of given masks to score instead of a backbone: <sequence>/<frame>.png")
    save_predictions: str | None = runtime(None, "folder to save predicted masks in, as paletted PNGs <sequence>/<frame>.png")
    visualise: int = runtime(0, "number of sequences to draw, truth above and prediction below", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the mean of J and F."""
        return {"metric": "jf_mean", "variant": "official"}

    def source_override(self) -> Backbone | None:
        """Return the source override, which identifies the masks of --predictions; None without that option."""
        return None if self.predictions is None else GivenMasks(Path(self.predictions)).source_override()

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings; for given masks, only those that still decide the number."""
        settings = super().settings(dataset)
        del settings["predictions"]
        return settings if self.predictions is None else {"eval_split": self.eval_split, "masks": "given"}

    def resolve(self, dataset: Dataset) -> Vos:
        """Fill in the split. Raises UserError for options that have no effect on the masks of --predictions."""
        if self.predictions is not None:
            self.check_given()
        return super().resolve(dataset)

    def check_given(self) -> None:
        """Raise UserError for options that have no effect on given masks."""
        if self.save_predictions is not None:
            raise UserError("--save-predictions goes with a backbone; --predictions names masks that exist")
        usual, own = Vos(), [flag.name for flag in flags(Vos) if flag.kind == "setting"]
        idle = [name for name in own if getattr(self, name) != getattr(usual, name) and name not in ("predictions", "eval_split")]
        if idle:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise UserError(f"{names} (or a preset other than dino) changes nothing about --predictions; leave it out")

    def alone(self) -> str:
        """Return the option that allows one run only: --save-predictions, whose folder holds the masks of one; "" without it."""
        return "" if self.save_predictions is None else f"--save-predictions {self.save_predictions}"

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the tracking of all frames; nothing is stored."""
        videos, split = cast(Videos, dataset), self.splits(dataset)[1]
        sequences = videos.sequences(dataset.part(split, run.limit))
        frames = [item for frames in sequences.values() for item in frames]
        if self.predictions is not None:
            return []
        (name, longest), tracker = max(sequences.items(), key=lambda entry: len(entry[1])), self.tracker(backbone, videos, 0)

        def followed(items: Sequence[Item]) -> float:
            first = longest[: max(2, len(items))]
            tracked = sum(1 for _ in tracker.follow({name: first}, {name: videos.objects(longest)}, Run()))
            return tracked / len(frames)

        return [Stage("features and propagation", frames, sample=followed)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read first masks (they fail early), then score frame by frame; sequences that a killed run finished are reused."""
        videos = cast(Videos, dataset)
        split = self.splits(dataset)[1]
        items = dataset.part(split, run.limit)
        sequences = videos.sequences(items)
        with run.stage("labels"):
            objects = {name: videos.objects(frames) for name, frames in sequences.items()}
        for name, frames in sequences.items():
            if len(frames) < LEAST_FRAMES:
                raise UserError(
                    f"the sequence {name} has {len(frames)} frames; the first and the last are not scored: give three"
                )
        about = {"backbone": backbone.identity(), "settings": self.settings(dataset), "dataset": dataset.digest(split, items)}
        sheets = Sheets(videos, sequences, self.visualise, run.pictures)
        sheets.chosen = from_main(lambda: sheets.chosen)  # others than the main process have no folder of pictures
        if run.drawing:
            sequences = {name: sequences[name] for name in sheets.chosen}
        tally = Tally(videos, sequences, objects, run)
        saved = self.saved(about) if self.save_predictions and not run.drawing else None

        def is_open(name: str) -> bool:
            return not (tally.finished(name) and sheets.drawn(name) and (saved is None or saved.has(sequences[name])))

        open_ = from_main(lambda: [name for name in sequences if is_open(name)])
        if self.predictions is not None:
            GivenMasks(Path(self.predictions)).check([sequences[name] for name in open_])
        sizes = {name: videos.image_size(sequences[name][0]) for name in open_}
        costs = {name: float(len(sequences[name]) * width * height) for name, (width, height) in sizes.items()}
        mine = portions(costs, world_size())[rank()]
        self.track(backbone, videos, {name: sequences[name] for name in mine}, objects, run, tally, sheets, saved)
        tally.collect(mine if rank() else [*mine, *({*sequences} - {*open_})])
        if vanished := tally.vanished():
            warn(f"{len(vanished)} of {sum(objects.values())} objects are lost in the grid of patches: {', '.join(vanished)}")
        if sheets.chosen:
            notice(f"pictures of {len(sheets.chosen)} sequences are in {run.pictures}")
        if run.drawing:
            return
        yield from scores(tally.values(), {**tally.details(), **self.sizes(backbone, videos, sequences)})

    def saved(self, about: dict[str, Any]) -> SavedMasks:
        """Return the folder of --save-predictions, which the main process makes."""
        assert self.save_predictions is not None
        folder = Path(self.save_predictions)
        from_main(lambda: SavedMasks(folder, about).folder)
        return SavedMasks(folder, about)

    def track(
        self, backbone: Backbone, videos: Videos, sequences: dict[str, list[Item]], objects: dict[str, int], run: Run,
        tally: Tally, sheets: Sheets, saved: SavedMasks | None,
    ) -> None:  # fmt: skip
        """Follow the objects of some sequences, those of this process, and score, draw and save every frame.

        The main process draws what the others have followed.
        """
        shown: list[Tracking] = []
        with progress("frames", sum(map(len, sequences.values())), "frames") as bar:
            for tracking in self.maps(backbone, videos, sequences, objects, run):
                with run.stage("scoring"):
                    tally.add(tracking)
                with run.stage("pictures"):
                    if rank() == 0:
                        sheets.add(tracking)
                    elif sheets.shows(tracking):
                        shown.append(tracking)
                    if saved is not None:
                        saved.write(tracking)
                bar.advance()
        for tracking in collected(shown) if sheets.chosen else ():
            if rank() == 0:
                sheets.add(tracking)

    def sizes(self, backbone: Backbone, videos: Videos, sequences: dict[str, list[Item]]) -> dict[str, Any]:
        """Return the sizes of resized frames, for the record; nothing for given masks."""
        if self.predictions is not None:
            return {}
        size = FrameSize(self.short_side, self.rounding, backbone.multiple)
        shapes = dict.fromkeys(size.shape(*videos.image_size(frames[0])) for frames in sequences.values())
        return {"sizes": [f"{width} x {height}" for height, width in shapes]}

    def maps(
        self, backbone: Backbone, videos: Videos, sequences: dict[str, list[Item]], objects: dict[str, int], run: Run
    ) -> Iterator[Tracking]:
        """Yield the label maps of all frames, those of a sequence in order."""
        if self.predictions is not None:
            yield from GivenMasks(Path(self.predictions)).read(videos, sequences, objects)
            return
        workers = resolve_workers(self.workers, sum(map(len, sequences.values())))
        yield from self.tracker(backbone, videos, workers).follow(sequences, objects, run)

    def tracker(self, backbone: Backbone, videos: Videos, workers: int) -> Tracker:
        """Return the tracker that follows objects through videos by the features of a backbone."""
        device = resolve_device(self.device)
        window = Window(self.radius, self.window, self.neighbours, self.temperature)  # type: ignore[arg-type]
        return Tracker(
            backbone.to(device), videos, device,
            size=FrameSize(self.short_side, self.rounding, backbone.multiple), resample=self.resample, colour=self.colour,
            precision=self.precision, window=window, context=self.context, upsample=self.mask_upsample,
            batch_size=self.batch_size or BATCH, workers=workers,
        )  # fmt: skip
