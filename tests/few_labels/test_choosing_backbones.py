"""`choose` from end to end on made-up images: what it takes, what it recommends, and what it says of mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from retrieval_by_loops import DATA, Blocks, empty_cache

import densebench
from densebench.datasets.dataset import Item
from densebench.errors import UserError

__all__ = ["empty_cache"]  # a fixture
WHOLE = {"protocol": "incontext", "repetitions": 1, "neighbours": "5"}
QUICK = {**WHOLE, "folds": 2}


def colours(images):
    """Patches as their mean colours: what tells the classes of the blocks apart."""
    return torch.nn.functional.avg_pool2d(images, 8)


def constant(images):
    """The same features everywhere."""
    return torch.ones(len(images), 4, images.shape[2] // 8, images.shape[3] // 8)


def broken(images):
    raise ValueError("no <features> today")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return densebench.choose(DATA, [constant, colours], name=["constant", "colours"], **WHOLE)


def test_the_backbone_that_tells_classes_apart_is_taken(chosen):
    assert chosen.sentence.startswith("Take colours (")
    assert "constant is " in chosen.sentence and "mIoU below" in chosen.sentence
    first, second = chosen.comparisons[0].standings
    assert (first.backbone, second.backbone, second.behind.separable) == ("colours", "constant", True)


def test_every_labelled_training_image_is_used_once(chosen):
    assert (chosen.images, chosen.groups, chosen.folds) == (10, 10, 5)


def test_the_frame_has_a_row_for_each_backbone_and_its_cost(chosen):
    assert chosen.frame.backbone.tolist() == ["colours", "constant"]
    assert (chosen.frame.stride == 8).all() and (chosen.frame.images_per_second > 0).all()
    assert chosen.frame.behind.tolist()[0] == 0


def test_it_prints_tables_notes_and_the_sentence_last(chosen):
    lines = str(chosen).splitlines()
    assert lines[-1] == chosen.sentence
    assert any(line.startswith("| colours | **") for line in lines)
    assert sum(line.startswith("- ") for line in lines) == len(chosen.notes) >= 3


def test_json_holds_the_numbers(chosen):
    values = chosen.json()
    assert values["sentence"] == chosen.sentence
    assert values["comparisons"][0]["standings"][0]["value"] == pytest.approx(chosen.frame.miou[0], abs=1e-4)
    assert values["learning_curves"]["colours"]["sizes"] == [2, 4, 8]


def test_the_same_call_gives_the_same_numbers(chosen):
    again = densebench.choose(DATA, [colours], name=["colours"], **WHOLE)
    assert again.curves["colours"] == chosen.curves["colours"]
    assert again.comparisons[0].standings[0].value == chosen.comparisons[0].standings[0].value


def test_a_backbone_that_fails_is_named_and_the_others_are_compared(capsys):
    found = densebench.choose(DATA, [broken, colours, "random:no_such_model"], name=["<b>", "colours", "none"], **QUICK)
    assert [failure.backbone for failure in found.failures] == ["<b>", "none"]
    assert found.sentence.startswith("colours reaches ") and found.sentence.endswith("<b> and none failed and are not compared.")
    assert "<b> is left out" in capsys.readouterr().err


def test_where_all_fail_the_first_error_is_raised():
    with pytest.raises(UserError, match="no_such_model"):
        densebench.choose(DATA, ["random:no_such_model", broken], **QUICK)


def test_images_of_a_group_are_held_out_together():
    """Images 7, 8 and 9 match the same (nothing): eight groups, each a fold of its own."""
    found = densebench.choose(DATA, colours, groups="train-([0-6])?", **QUICK)
    assert (found.images, found.groups, found.folds) == (10, 8, 8)
    assert any(note.startswith("by the pattern") for note in found.notes)


def test_two_backbones_of_one_name_stay_apart():
    found = densebench.choose(DATA, [colours, colours], name=["same", "same"], **QUICK)
    assert set(found.costs) == {"same", "same (2)"}
    assert found.sentence.startswith("Take same") and "are equal on these images" in found.sentence


def test_constant_features_alone_are_no_better_than_the_most_frequent_class():
    found = densebench.choose(DATA, constant, name="constant", **QUICK)
    assert found.sentence.startswith("Take none of them yet: the best, constant, reaches ")


def test_both_protocols_are_heard_by_default():
    found = densebench.choose(DATA, [colours, constant], name=["colours", "constant"], folds=2, repetitions=1)
    assert [comparison.protocol for comparison in found.comparisons] == ["incontext", "linear"]
    assert [comparison.standings[0].backbone for comparison in found.comparisons] == ["colours", "colours"]
    assert found.sentence.endswith("; linear agrees.")
    assert found.frame.protocol.tolist() == ["incontext", "incontext", "linear", "linear"]


def test_the_image_size_is_rounded_down_to_each_stride():
    found = densebench.choose(DATA, ["pixels:8", "pixels:12"], image_size=30, **QUICK)
    assert {cost.size for cost in found.costs.values()} == {24}
    assert found.size == "30 px"


@pytest.mark.slow
def test_layers_are_those_of_each_backbone():
    models = ["random:test_vit"] * 2
    found = densebench.choose(DATA, models, layer=["0", "last"], image_size=64, **QUICK)
    assert set(found.costs) == {"random:test_vit, layer 0", "random:test_vit"}


@pytest.mark.parametrize(
    ("models", "given", "words"),
    [
        (None, {}, "name the backbones"),
        (["pixels:8"], {"protocol": "kmeans"}, "kmeans cannot label new images; give incontext or linear"),
        (["pixels:8"], {"protocol": "incontext,incontext"}, "each once"),
        (["pixels:8"], {"protocol": "incontexd"}, "did you mean 'incontext'"),
        (["pixels:8"], {"folds": 1}, "--folds 1"),
        (["pixels:8"], {"limit": 3}, "3 labelled images: a cross-validation takes at least 4"),
        (["pixels:8"], {"split": "tain"}, "did you mean 'train'"),
        (["pixels:8", "pixels:4"], {"layer": ["1", "2", "3"]}, "3 --layer for 2 backbones"),
    ],
)
def test_mistakes_are_one_clear_line(models, given, words):
    with pytest.raises(UserError, match=words):
        densebench.choose(DATA, models, **{"repetitions": 1, **given})


@dataclass(frozen=True, kw_only=True)
class Rare(Blocks):
    """The blocks with a class in one image alone."""

    classes: tuple[str, ...] = ("a", "b", "c", "d", "rare <i>")

    def label(self, item: Item) -> np.ndarray:
        label = super().label(item)
        label[20:30, 20:30] = 4 if item.name == "train-3" else label[20:30, 20:30]
        return label


def test_a_class_of_one_image_is_left_out_and_named():
    found = densebench.choose(Rare(root=DATA.root), colours, name="colours", **QUICK)
    assert "rare <i>" not in found.comparisons[0].standings[0].per_class
    assert any(note.startswith("rare <i>: visible in a single image or group") for note in found.notes)


def test_stated_splits_leave_the_others_unseen(capsys):
    assert densebench.choose(DATA, colours, **QUICK).images == 10
    assert "the images of the split train are used; val stay unseen" in capsys.readouterr().err
    assert densebench.choose(DATA, colours, split="val", **QUICK).images == 4
    assert "stay unseen" not in capsys.readouterr().err


def test_fits_that_end_early_are_told_once_for_each_backbone(capsys):
    densebench.choose(DATA, [colours, constant], protocol="linear", folds=3, repetitions=1, iterations=1, image_size=32)
    assert capsys.readouterr().err.count("ended at --iterations 1 above the tolerance") == 2
