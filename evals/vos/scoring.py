"""J and F of label maps frame by frame, saved so that a killed run can be resumed, and the scores computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from densebench.datasets.dataset import Item
from densebench.datasets.videos import Videos
from densebench.evals.vos.tracking import Tracking
from densebench.evaluation.protocol import Run
from densebench.files.atomic import cache_root, canonical_json, read_checked, write_checked
from densebench.files.cache import Hold
from densebench.numerics import video as video_metrics
from densebench.numerics.bootstrap import bootstrap_mean_of_objects, interval
from densebench.processes import collected
from densebench.results.score import Score

VARIANT = "official"
METRICS = {"j": 0, "f": 1}
STATISTICS = ("mean", "recall", "decay")


class Tally:
    """J and F by sequence, frame and object. Whole sequences are saved, so that a killed run resumes after them."""

    def __init__(self, videos: Videos, sequences: Mapping[str, list[Item]], objects: Mapping[str, int], run: Run) -> None:
        self.videos, self.sequences, self.objects = videos, sequences, objects
        self._values: dict[str, list[list[list[float]]]] = {name: [] for name in sequences}
        self._vanished: dict[str, list[int]] = {name: [] for name in sequences}
        self._finished: set[str] = set()
        self._folder = cache_root() / "scoring" / f"{run.progress_key}-vos" if run.progress_key else None
        self._hold = Hold(self._folder, {"protocol": "vos"}) if self._folder is not None else None
        for name in sequences:
            if self._folder is not None and (content := read_checked(self._folder / f"{name}.scores.json")) is not None:
                saved = json.loads(content)
                self._values[name], self._vanished[name] = saved["values"], saved["vanished"]
                self._finished.add(name)

    def finished(self, name: str) -> bool:
        """Return whether all frames of a sequence are scored."""
        return name in self._finished

    def add(self, tracking: Tracking) -> None:
        """Score the label map of a frame; the first and the last frame of a sequence are not scored."""
        name, last = tracking.sequence, len(self.sequences[tracking.sequence]) - 1
        if tracking.number == 0:
            self._values[name], self._vanished[name] = [], list(tracking.vanished)
        elif tracking.number < last:
            truth = self.videos.label(tracking.item)
            of_objects = video_metrics.object_scores(tracking.prediction, truth, self.objects[name])
            self._values[name].append(of_objects.tolist())
        else:
            self._finished.add(name)
            if self._folder is not None:
                saved = {"values": self._values[name], "vanished": self._vanished[name]}
                write_checked(self._folder / f"{name}.scores.json", canonical_json(saved).encode())

    def collect(self, names: Iterable[str]) -> None:
        """Give all processes the values of all. names: the sequences that this process answers for, each one in one process."""
        for name, values, vanished in collected([(name, self._values[name], self._vanished[name]) for name in names]):
            self._values[name], self._vanished[name] = values, vanished

    def values(self) -> dict[str, Float[np.ndarray, "frames objects 2"]]:
        """Return J and F by sequence, 0..1."""
        return {name: np.array(values) for name, values in self._values.items()}

    def vanished(self) -> list[str]:
        """Return the objects, as <sequence>_<id>, that lie under no patch centre of the first frame."""
        return [f"{name}_{number}" for name, lost in self._vanished.items() for number in lost]

    def details(self) -> dict[str, Any]:
        """Return how many sequences, objects and frames were scored, and the objects that vanished."""
        frames = sum(len(values) for values in self._values.values())
        counts = {"sequences": len(self.sequences), "objects": sum(self.objects.values()), "frames": frames}
        return counts | ({"vanished": lost} if (lost := self.vanished()) else {})


def portions(costs: Mapping[str, float], count: int) -> list[list[str]]:
    """Return what each of `count` processes does: the most costly piece of work first, to the process that has least to do.

    costs: what each piece costs, by its name. A process keeps the order of `costs`; some may have nothing.
    """
    chosen: list[list[str]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for name in sorted(costs, key=lambda name: -costs[name]):
        least = loads.index(min(loads))
        chosen[least].append(name)
        loads[least] += costs[name]
    order = list(costs)
    return [sorted(names, key=order.index) for names in chosen]


def scores(values: Mapping[str, Float[np.ndarray, "frames objects 2"]], details: dict[str, Any]) -> list[Score]:
    """Return mean, recall and decay of J and of F, and last the mean of both means, in % (decay in points) over all objects.

    values: J and F by sequence. Intervals are those of a bootstrap over sequences.
    """
    tables = {name: 100 * _statistics(frames) for name, frames in values.items()}
    scores_of, by_sequence = [], {name: {} for name in tables}  # type: ignore[var-annotated]
    for letter, column in METRICS.items():
        for row, what in enumerate(STATISTICS):
            of_sequences = {name: table[:, column, row] for name, table in tables.items()}
            for name, of_objects in of_sequences.items():
                by_sequence[name][f"{letter}_{what}"] = round(float(of_objects.mean()), 4)
            scores_of.append(_score(f"{letter}_{what}", of_sequences, {}))
    both = {name: table[:, :, 0].mean(1) for name, table in tables.items()}
    return [*scores_of, _score("jf_mean", both, {**details, "by_sequence": by_sequence})]


def _statistics(values: Float[np.ndarray, "frames objects 2"]) -> Float[np.ndarray, "objects 2 3"]:
    """Return mean, recall and decay of J and F of every object of a sequence."""
    return np.array([[video_metrics.statistics(column) for column in frames.T] for frames in values.transpose(1, 0, 2)])


def _score(metric: str, values: Mapping[str, Float[np.ndarray, "objects"]], details: dict[str, Any]) -> Score:
    """Return a score: the mean over all objects, and the value of each. Means have a bootstrap over sequences; values in %."""
    import torch

    sums, counts = (np.array([of(of_objects) for of_objects in values.values()]) for of in (np.sum, len))
    each = {
        f"{name}_{n}": round(value, 4) for name, of_objects in values.items() for n, value in enumerate(of_objects.tolist(), 1)
    }
    mean = round(float(sums.sum() / counts.sum()), 4)
    if metric.endswith("decay"):
        return Score(metric, VARIANT, mean, "points", per_class=each, direction="lower", digits=1)
    if metric.endswith("recall"):
        return Score(metric, VARIANT, mean, per_class=each, direction="higher")
    resampled = bootstrap_mean_of_objects(sums, counts)
    low, high = interval(torch.from_numpy(resampled))
    return Score(
        metric, VARIANT, mean, ci95=(round(low, 4), round(high, 4)), per_class=each, bootstrap=tuple(resampled.tolist()),
        details=details, direction="higher",
    )  # fmt: skip
