"""In-context retrieval: which settings its presets have, and which of them tell groups apart."""

from __future__ import annotations

import pytest

from densebench import options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.protocol import Run

SCENES = load_dataset("scenes")


def settings(preset, **given):
    return options.build(InContext, InContext.presets[preset], given).resolve(SCENES).settings(SCENES)


def test_the_code_behind_neco_turned_hue_by_up_to_half_a_turn():
    assert settings("neco")["hue"] == 0.5


@pytest.mark.parametrize("preset", [name for name in InContext.presets if name != "neco"])
def test_the_other_presets_turn_hue_by_up_to_a_tenth_where_they_jitter(preset):
    assert settings(preset)["hue"] == (0.1 if settings(preset)["augment_epochs"] else None)


def test_another_hue_is_another_group():
    assert settings("hummingbird", hue=0.5) == settings("hummingbird") | {"hue": 0.5}


def test_without_augmented_views_hue_means_nothing():
    assert settings("neco", augment_epochs=0, hue=0.3) == settings("neco", augment_epochs=0)


def test_more_than_half_a_turn_is_refused():
    with pytest.raises(UserError, match=r"--hue 0.6: .* at most 0.5"):
        settings("hummingbird", hue=0.6)


def test_hue_changes_the_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    given = {"image_size": 64, "neighbours": (5,), "memory_size": None, "device": "cpu"}

    def scores(**more):
        evaluator = options.build(InContext, {}, {**given, **more}).resolve(SCENES)
        found = evaluator.run(load_backbone("pixels:8"), SCENES, Run(limit=6, progress_key=f"hue {more}"))
        return [score.value for score in found]

    assert scores() == scores(hue=0.1) != scores(hue=0.5)
