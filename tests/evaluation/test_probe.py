"""A probe gives the number that the protocol gives, reads nothing twice and writes no feature to disk."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from growing import FEW, LIMIT, Counted, Net, scored
from torch import nn

import densebench
from densebench import catalog
from densebench.errors import UserError
from densebench.evals.kmeans import KMeans


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def probe(dataset="scenes", protocol="incontext", **given):
    return densebench.Probe(dataset, protocol, **{"limit": LIMIT, **FEW, **given})


def test_a_probe_gives_the_number_that_the_protocol_gives(cache):
    model = Net()
    assert [probe()(model, 0)] == scored(model)


def test_a_later_call_scores_the_network_of_that_moment(cache):
    model, good = Net(0), Net(1)
    asked = probe()
    first = asked(model, 0)
    model.load_state_dict(good.state_dict())
    second = asked(model, 1)
    assert [first] == scored(Net(0)) and [second] == scored(good) and first != second


def test_running_statistics_count_too(cache):
    model = Net()
    asked = probe()
    asked(model, 0)
    for _ in range(3):
        model(torch.randn(8, 3, 64, 64) * 9 + 5)
    assert [asked(model, 1)] == scored(model) != scored(Net())


def test_another_network_of_the_same_class_may_be_probed(cache):
    asked = probe()
    asked(Net(0), 0)
    assert [asked(Net(3), 1)] == scored(Net(3))


class ColumnsFirst(Net):
    def forward(self, images):
        return super().forward(images).transpose(2, 3)


def test_another_network_of_equal_weights_is_recognised_anew(cache):
    asked = probe()
    assert asked(Net(), 0) == asked(ColumnsFirst(), 1)


def test_a_network_with_other_features_is_refused(cache):
    asked = probe()
    asked(Net(), 0)
    with pytest.raises(UserError, match="gave 8 features for every 16 px .* now gives 12 features for every 16 px"):
        asked(Net(dim=12), 1)


def test_a_network_that_changes_its_features_by_a_switch_is_refused(cache):
    asked, model = probe(), Net()
    asked(model, 0)
    model.doubled = True
    with pytest.raises(UserError, match=r"gave 8 features .* now gives 16 features.*make a new Probe"):
        asked(model, 1)


def test_a_position_table_that_was_resized_is_resized_again(cache):
    """A ViT whose table was learned for another grid than that of the images."""
    timm = pytest.importorskip("timm")
    vits = [timm.create_model("test_vit", img_size=160) for _ in range(2)]
    for vit in vits:
        nn.init.normal_(vit.pos_embed)
    asked = probe()
    asked(vits[0], 0)
    assert [asked(vits[1], 1)] == scored(vits[1])


def test_what_a_network_derives_from_its_weights_is_not_kept(cache):
    asked, model = probe(), Net()
    model.caching = True
    asked(model, 0)
    model.last.weight.data.copy_(Net(1).last.weight)
    fresh = Net()
    fresh.load_state_dict(model.state_dict())
    assert [asked(model, 1)] == scored(fresh)


def test_no_feature_is_written_to_disk(cache):
    probe()(Net(), 0)
    assert not (cache / "features").exists()


def test_the_second_call_reads_no_image_and_no_label(cache):
    data = Counted(root=Path())
    asked = probe(data)
    asked(Net(0), 0)
    assert data.reads["images"] >= 2 * LIMIT and data.reads["labels"] >= 2 * LIMIT
    data.reads.clear()
    asked(Net(1), 1)
    assert not data.reads


def test_the_callers_data_set_stays_as_it_was(cache):
    data = Counted(root=Path())
    item = data.items("val")[0]
    probe(data)(Net(), 0)
    before = data.reads["labels"]
    data.label(item)[:] = 1
    assert data.reads["labels"] == before + 1 and data.label(item).max() > 1


def test_a_small_memory_gives_the_same_number_and_says_so_once(cache, capsys):
    data, model = Counted(root=Path()), Net()
    asked = probe(data, memory=200_000)
    values = [asked(model, step) for step in (0, 1)]
    assert values == scored(model) * 2
    assert capsys.readouterr().err.count("give a larger `memory` or a smaller `limit`") == 1
    data.reads.clear()
    asked(model, 2)
    assert data.reads["images"] > 0


def test_a_probe_is_due_at_step_0_and_then_every_so_many_steps(cache):
    asked = probe(every=3)
    assert [step for step in range(8) if asked.due(step)] == [0, 3, 6]
    assert [step for step in range(5) if asked(Net(), step) is not None] == [0, 3]
    assert asked.history["step"].tolist() == [0, 3]


def test_a_step_is_a_whole_number(cache):
    with pytest.raises(UserError, match=r"step=0\.5: give a whole number"):
        probe()(Net(), 0.5)


def test_the_value_is_the_mean_over_seeds_of_the_first_point(cache):
    model, given = Net(), {"clusters": (4, 8), "seeds": 2, "restarts": 1, "pca": None}
    values = scored(model, "kmeans", **given)
    asked = probe(protocol="kmeans", **given)
    assert asked(model, 0) == pytest.approx(statistics.fmean(values[:2])) and len(values) == 4
    assert asked.history[["low", "high"]].isna().all().all()


def test_a_protocol_may_be_given_with_its_options(cache):
    given = {"clusters": (4,), "seeds": 1, "restarts": 1, "pca": None}
    asked = densebench.Probe("scenes", KMeans(**FEW, **given), limit=LIMIT)
    assert [asked(Net(), 0)] == scored(Net(), "kmeans", **{**given, "absent": "zero"})


def test_a_spec_and_a_backbone_are_scored_too(cache):
    backbone = densebench.load_backbone("pixels:16")
    assert probe()("pixels:16", 0) == probe()(backbone, 0)


def test_a_backbone_that_is_probed_stays_as_it_was(cache):
    backbone = densebench.load_backbone("pixels:16")
    before = backbone.identity(), len(backbone._forward_hooks)
    probe()(backbone, 0)
    assert (backbone.identity(), len(backbone._forward_hooks)) == before


@pytest.mark.parametrize("name", [name for name in catalog.entries("protocols") if catalog.load("protocols", name).fine_tunes])
def test_a_protocol_that_fine_tunes_the_network_is_refused(name):
    with pytest.raises(UserError, match=f"{name}.* fine-tunes the network"):
        densebench.Probe("scenes", name)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"every": 0}, "every=0: give a whole number, at least 1"),
        ({"every": True}, "every=True: give a whole number"),
        ({"memory": -1}, "memory=-1: give a whole number, at least 0"),
        ({"limit": 0}, "--limit 0"),
        ({"folder": 5}, "folder=5: give a path, as a text or a Path"),
        ({"data_root": 5}, "data_root=5: give a path"),
        ({"ranks": "some"}, '"main" or "all"'),
        ({"dataset": "scnes"}, "scenes"),
        ({"protocol": "incntext"}, "incontext"),
        ({"preset": "humingbird"}, "hummingbird"),
        ({"fractons": (1,)}, "fractions"),
        ({"device": "tpu"}, "tpu"),
        ({"protocol": KMeans(restarts=0)}, "restarts 0"),
        ({"protocol": KMeans(), "clusters": (3,)}, "has its options already; give clusters to it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_training(given, line):
    with pytest.raises(UserError, match=line) as told:
        densebench.Probe(**{"dataset": "scenes", "protocol": "incontext", **given})
    assert "\n" not in str(told.value)


def test_a_network_that_is_spread_over_processes_is_refused(cache):
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(UserError, match="spread over processes"):
        probe()(FullyShardedDataParallel(), 0)
