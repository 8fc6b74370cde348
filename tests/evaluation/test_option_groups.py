"""What protocols inherit: splits, points, and how long a run is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import retrieval_by_loops

from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evaluation.option_groups import Clustered, FewShot, SlidingWindow
from densebench.evaluation.protocol import Evaluator
from densebench.evaluation.subsets import balanced_order, subset_size

DATA = load_dataset("scenes")


class Run:
    """What a protocol states itself."""

    def run(self, *_):
        return iter(())

    def headline(self):
        return {"metric": "miou", "variant": "identity"}


@dataclass(frozen=True)
class Plain(Run, Evaluator):
    pass


@dataclass(frozen=True)
class Unlabelled(Run, Clustered):
    pass


@dataclass(frozen=True)
class Few(Run, FewShot):
    pass


@dataclass(frozen=True)
class Windows(Run, SlidingWindow):
    pass


def test_a_protocol_without_a_training_split_looks_at_the_scored_one_alone():
    assert Plain().splits(DATA) == Unlabelled().splits(DATA) == (DATA.val_split, DATA.val_split)
    assert Unlabelled(eval_split="train").splits(DATA) == ("train", "train")
    assert Plain().resolve(DATA) == Plain()
    assert Unlabelled().resolve(DATA).eval_split == DATA.val_split
    assert Plain().points(DATA) == [()]


def test_a_supervised_protocol_names_both_splits():
    chosen = Few().resolve(DATA)
    assert (chosen.train_split, chosen.eval_split) == (DATA.train_split, DATA.val_split)
    assert Few(train_split="val", eval_split="train").splits(DATA) == ("val", "train")


def test_fraction_1_is_scored_once_and_others_for_each_seed():
    points = [dict(point) for point in Few(fractions=(1, 8, 8), seeds=2).points(DATA)]
    assert [(point["fraction"], point["seed"]) for point in points] == [(1, None), (8, 0), (8, 1)]


@pytest.mark.parametrize(("name", "iterations"), [("voc", 80_000), ("ade20k", 160_000), ("coco-stuff164k", 160_000)])
def test_runs_with_sliding_windows_are_as_long_as_published(name, iterations):
    dataset = load_dataset(name, Path())
    chosen = Windows().resolve(dataset)
    assert (chosen.iterations, chosen.stride, chosen.settings(dataset)["comparable"]) == (iterations, 480, True)
    assert not replace(chosen, iterations=10).settings(dataset)["comparable"]


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(UserError, match="--stride 65: windows of 64 px would leave gaps"):
        Windows(crop_size=64, stride=65).resolve(DATA)


def test_balanced_subsets_leave_the_background_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    data = replace(retrieval_by_loops.DATA, background=1)
    items = data.items("train")
    [chosen] = Few().choose(data, items, [(("fraction", 2), ("seed", 0))])
    order = balanced_order(data.presence(items)[:, [0, 2, 3]], 0)
    assert np.flatnonzero(chosen).tolist() == sorted(order[: subset_size(len(items), 2, 3)].tolist())
    assert subset_size(len(items), 2, 3) != subset_size(len(items), 2, 4)
