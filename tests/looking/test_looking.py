"""`look` from Python: what it shows of each backbone, and what it does about what fails."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from look_pictures import film, in_memory, picture
from torch import nn

import densebench
from densebench.backbones.loading import load_backbone
from densebench.errors import UserError
from densebench.features.cost import cost_of
from densebench.looking.work import unique_names


def look(source=None, backbones="pixels:8", **options):
    given = {"image_size": 64, "clusters": 3, "device": "cpu", **options}
    return densebench.look(in_memory() if source is None else source, backbones, **given)


class Broken(nn.Module):
    """A module that gives features of black pictures alone, such as the one that its stride is measured on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images):
        if images.shape[2] != images.shape[3]:
            raise RuntimeError("no such <size>")
        return self.layer(images)


@pytest.fixture(scope="module")
def seen():
    return look(backbones=["pixels:8", "pixels:4"])


def test_everything_is_seen_of_every_picture(seen):
    for backbone in seen.backbones:
        assert len(backbone.views) == len(seen.pictures) == len(seen.queries) == 4
        for view, queries in zip(backbone.views, seen.queries, strict=True):
            grid = view.grid.shape[:2]
            for each in (view.colours, view.foreground, view.clusters, view.norms, view.outliers):
                assert each.shape[:2] == grid
            assert view.colours.dtype == np.uint8
            assert len(view.neighbours) == len(queries)
            assert all(len(near) == 3 for near in view.neighbours)


def test_backbones_have_the_same_headings_and_figures(seen):
    first, second = seen.backbones
    assert list(first.facts) == list(second.facts)
    assert [figure.name for figure in first.figures] == [figure.name for figure in second.figures]
    assert (first.facts["stride"], second.facts["stride"], first.stride) == ("8 px", "4 px", 8)


def test_it_shows_itself_as_a_table(seen):
    assert repr(seen) == "Look('pictures': 4 pictures, 2 backbones)"
    assert str(seen).splitlines()[2].startswith("| pixels:8 | 192 | 8 px |")
    named = look(backbones=["pixels:8", "timm:no_such_model"], name=["<b>", "<i>"], count=1)
    assert "<td>&lt;b&gt;</td>" in named._repr_html_()
    assert "<p>&lt;i&gt;: " in named._repr_html_()


def test_every_figure_has_a_sentence_and_a_source(seen):
    for figure in seen.backbones[0].figures:
        assert figure.text
        assert figure.meaning.endswith(".")
        assert figure.source


def test_the_same_call_sees_the_same(seen):
    again = look(backbones=["pixels:8", "pixels:4"])
    for one, other in zip(seen.backbones, again.backbones, strict=True):
        assert one.figures == other.figures
        for a, b in zip(one.views, other.views, strict=True):
            assert (a.colours == b.colours).all()
            assert (a.clusters == b.clusters).all()
            assert a.neighbours == b.neighbours


def test_a_backbone_is_seen_alike_whoever_is_seen_beside_it(seen):
    [alone] = look(backbones="pixels:8").backbones
    assert alone.figures == seen.backbones[0].figures
    assert (alone.views[0].clusters == seen.backbones[0].views[0].clusters).all()


def test_clusters_of_a_later_backbone_are_numbered_as_those_of_the_first():
    first, second = look(backbones=["pixels:8", "pixels:8"], clusters=4, seed=1, count=2).backbones
    assert all((a.clusters == b.clusters).all() for a, b in zip(first.views, second.views, strict=True))


class Bands(nn.Module):
    """Features that say in which of three bands of rows a patch lies."""

    def __init__(self, *tenths):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 8, 8)
        self.tenths = tenths

    def forward(self, images):
        rows = torch.arange(images.shape[2] // 8) * 10 // (images.shape[2] // 8)
        band = torch.bucketize(rows, torch.tensor(self.tenths), right=True)
        return nn.functional.one_hot(band, 3).T.float()[None, :, :, None] + 0 * self.layer(images)


def test_clusters_are_numbered_as_those_of_the_first_backbone_that_they_overlap_most():
    shown = look(picture(0, 80, 80), [Bands(5, 8), Bands(2, 5), Bands(4, 6)], image_size=80).backbones
    numbers = [backbone.views[0].clusters[:, 0].tolist() for backbone in shown]
    assert numbers[0] == [0] * 5 + [1] * 3 + [2] * 2  # by size
    assert numbers[1] == [2] * 2 + [0] * 3 + [1] * 5
    assert numbers[2] == [0] * 4 + [1] * 2 + [2] * 4  # by the second backbone they were 2, 0, 1


def test_frames_are_numbered_in_the_whole_video(tmp_path):
    seen = look(film(tmp_path / "film", frames=26, width=32, height=64), "pixels:16", count=1, image_size=32, clusters=2)
    assert (seen.tracks[0].frames[0], seen.tracks[0].frames[-1]) == (0, 25)


def test_the_background_is_black_where_the_foreground_decides_the_colours():
    [view, *_] = look(foreground=True).backbones[0].views
    assert (view.colours[~view.foreground] == 0).all()
    assert not view.foreground.all()


def test_a_vit_shows_its_attention():
    [vit] = look(backbones="random:test_vit", source=in_memory(2)).backbones
    heads, rows, columns = vit.views[0].attention.shape
    assert (rows, columns) == vit.views[0].grid.shape[:2]
    assert heads > 1


def test_one_picture_is_enough():
    seen = look(picture(0), count=12)
    figures = {figure.name: figure for figure in seen.backbones[0].figures}
    assert seen.backbones[0].views[0].neighbours == ((), (), ())
    assert (figures["position read-out (R²)"].value, figures["position read-out (R²)"].text) == (None, "needs two pictures")


def test_a_backbone_that_fails_does_not_end_the_others(caplog):
    with caplog.at_level(logging.WARNING, "densebench"):
        seen = look(backbones=[Broken(), "pixels:8", "timm:no_such_model"])
    broken, works, unknown = seen.backbones
    assert (broken.problem, broken.views) == ("RuntimeError: no such <size>", ())
    assert (works.problem, len(works.views)) == ("", 4)
    assert "no_such_model" in unknown.problem
    assert "no such <size>" in caplog.text


def test_where_all_backbones_fail_the_first_error_is_raised():
    with pytest.raises(UserError, match="no_such_model"):
        look(backbones=["timm:no_such_model", "timm:no_such_model"])


def test_two_backbones_of_the_same_name_are_told_apart():
    assert unique_names(["a", "a", "b", "a"]) == ["a", "a (2)", "b", "a (3)"]
    assert unique_names(["a (2)", "a", "a"]) == ["a (2)", "a", "a (3)"]
    same = look(backbones=["pixels:8"] * 2, name=["<b>", "<b>"], count=1, image_size=32)
    assert [each.name for each in same.backbones] == ["<b>", "<b> (2)"]


def test_a_video_is_followed(tmp_path):
    picture(0).save(film(tmp_path / "film").parent / "photo.png")  # the frames of the film are not the first pictures
    seen = look(tmp_path, ["pixels:8", "timm:no_such_model"], count=2)
    [tracks] = seen.tracks
    assert (tracks.video, tracks.frames[0], tracks.frames[-1]) == ("film", 0, 7)
    assert list(tracks.sheets) == ["pixels:8"]
    assert len(tracks.sheets["pixels:8"]) == len(tracks.frames) == 6


def test_pictures_that_are_named_are_looked_at(tmp_path):
    film(tmp_path / "film", frames=3)
    assert [each.name for each in look(tmp_path / "film", images=["00002", "00000"]).pictures] == ["00002.png", "00000.png"]


def test_the_random_states_of_the_caller_stay():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    look(source=in_memory(2))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbones": []}, "name a backbone"),
        ({"count": 0}, "--count 0: give a whole number from 1 to 200"),
        ({"image_size": 9}, "--image-size 9: give a whole number from 32 to 4096"),
        ({"clusters": "many"}, "clusters='many': give a whole number"),
        ({"seed": True}, "seed=True: give a whole number"),
        ({"device": "tpu"}, "--device tpu: give auto, cpu or cuda"),
        ({"backbones": ["pixels:8"] * 2, "name": ["a"]}, "1 --name for 2 backbones: give one for each"),
        ({"backbones": ["pixels:8"] * 3, "layer": ["1", "2"]}, "2 --layer for 3 backbones: give one for all, or one for each"),
        ({"backbones": "no-such-thing"}, "no-such-thing"),
        ({"source": "no-such-folder"}, "unknown data 'no-such-folder'"),
    ],
)
def test_wrong_arguments_give_one_line(options, message):
    with pytest.raises(UserError, match=message):
        look(**options)


def test_look_is_a_function_after_its_room_was_imported():
    import densebench.looking.look

    assert callable(densebench.look)
    assert densebench.look(in_memory(1), "pixels:8", image_size=32).title == "pictures"


def test_costs_are_those_that_choosing_a_backbone_shows():
    """A picture of 64 x 64 px, at stride 8 and the same number of pixels: one count of a pass."""
    facts = look(in_memory(1, width=64), backbones="random:test_vit").backbones[0].facts
    cost = cost_of(load_backbone("random:test_vit"), 64, torch.device("cpu"))
    assert facts["GFLOP"] == f"{cost.gflop:.3g}" and facts["memory"] == f"{cost.memory_mb:.3g} MiB"


def test_the_order_of_backbones_changes_no_figure_and_no_picture(seen):
    turned = look(backbones=["pixels:4", "pixels:8"])
    assert [each.name for each in turned.pictures] == [each.name for each in seen.pictures]
    assert [each.figures for each in turned.backbones] == [each.figures for each in reversed(seen.backbones)]
