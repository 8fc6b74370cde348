"""Figures drawn from made pictures, logs and networks: who is on the sheet, and when it is drawn again."""

from __future__ import annotations

import json

import made_records
import numpy as np
import pytest
from PIL import Image
from table_files import BACKBONE, PRETRAIN, read
from tiers import late

from densebench.tables.carrying_out import carry_out
from densebench.tables.cells import Places, cells
from densebench.tables.figures import points_of
from densebench.tables.states import TableFolder, states

TWO = BACKBONE + BACKBONE.replace('"net"', '"other"') + "seed = 1\n"
PICTURES = """
[[figure]]
number = 4
pictures = {protocol = "kmeans", dataset = "scenes", count = 2, files = "*-near.png"}
"""
MATCHES = PRETRAIN + '[[figure]]\nnumber = 3\npictures = {pretraining = "matches"}\n'
CURVE = PRETRAIN + '[[figure]]\nnumber = 5\ncurve = {column = "ratio"}\n'
MAPS = '[[figure]]\nnumber = 3\nmaps = {of = "KIND", dataset = "scenes", images = 2, image_size = 32}\n'
COLOURS = {"a": (250, 0, 0), "b": (0, 250, 0), "c": (0, 0, 250), "d": (250, 250, 0)}


class Work:
    """A table, and the notes of its folder."""

    def __init__(self, folder, text):
        places = Places(folder / "results", folder / "runs", folder / "weights", folder / "data")
        self.folder = TableFolder(places.results, "small")
        self.cells = cells(read(folder, text), places)
        self.sources = [cell for cell in self.cells if cell.kind != "figure"]
        self.figure = self.cells[-1]

    def done(self, cell, ended="2026-01-01", **facts):
        self.folder.note(cell, {"state": "done", "started": "then", "ended": ended, **facts})

    def scored(self, cell, pictures, ended="2026-01-01"):
        """Note that an evaluation is done, by a record with pictures of these names."""
        record = made_records.write(self.folder.results, cell.backbone, {(1, 0): 50.0}, protocol="kmeans")
        record.finish("complete", {"drawn": cell.request["visualise"]})
        for name in pictures:
            save(self.folder.results / "pictures" / record.id / f"{name}-near.png", name)
            save(self.folder.results / "pictures" / record.id / f"{name}.png", "d")
        self.done(cell, ended, record=record.id, points=[{"fraction": 1, "seed": 0}], files={})

    def draw(self):
        """Carry the figure out, and return its note."""
        carry_out(self.figure, self.folder)
        return self.folder.noted(self.figure)

    @property
    def sheet(self):
        return np.asarray(Image.open(self.folder.path / f"figure-{self.figure.request['number']}.png"))

    @property
    def word(self):
        return states(self.cells, self.folder)[-1].word


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), COLOURS[colour]).save(path)


def shown(sheet):
    """How many pictures of each colour a sheet has."""
    counts = {name: int((sheet == colour).all(axis=2).sum()) / 600 for name, colour in COLOURS.items()}
    return {name: count for name, count in counts.items() if count}


def test_pictures_of_records_stand_beside_each_other_for_the_images_that_all_have(tmp_path):
    work = Work(tmp_path, TWO + PICTURES)
    work.scored(work.sources[0], "abc")
    work.scored(work.sources[1], "bc")
    note = work.draw()
    assert (note["state"], note["not_drawn"]) == ("done", {})
    assert note["outputs"] == [str(work.folder.path / "figure-4.png")]
    assert shown(work.sheet) == {"b": 2, "c": 2}


def test_two_figures_of_one_evaluation_each_show_as_many_pictures_as_they_ask_for(tmp_path):
    work = Work(tmp_path, TWO + PICTURES.replace("count = 2", "count = 1") + PICTURES.replace("number = 4", "number = 5"))
    assert [source.request["visualise"] for source in work.sources] == [2, 2]
    for source in work.sources:
        work.scored(source, "abc")
    for figure, count in zip(work.cells[2:], (1, 2), strict=True):
        carry_out(figure, work.folder)
        sheet = np.asarray(Image.open(work.folder.path / f"figure-{figure.request['number']}.png"))
        assert sum(shown(sheet).values()) == 2 * count


def test_what_is_not_done_is_left_out_and_named(tmp_path, capsys):
    work = Work(tmp_path, TWO + PICTURES)
    work.scored(work.sources[0], "ab")
    work.folder.note(work.sources[1], {"state": "failed", "started": "then", "problem": "there is no file net.pth"})
    assert work.draw()["not_drawn"] == {"other": "there is no file net.pth"}
    assert shown(work.sheet) == {"a": 1, "b": 1}
    assert "not there: other (there is no file net.pth)" in capsys.readouterr().err
    assert states(work.cells, work.folder)[-1].about == "without other"


def test_a_figure_is_drawn_again_when_more_is_done_and_when_that_is_done_anew(tmp_path):
    work = Work(tmp_path, TWO + PICTURES)
    work.scored(work.sources[0], "ab")
    work.draw()
    assert work.word == "done"
    work.scored(work.sources[1], "ab")
    assert work.word == "waiting"
    work.draw()
    assert (work.word, shown(work.sheet)) == ("done", {"a": 2, "b": 2})
    work.scored(work.sources[1], "ab", ended="2026-01-02")
    assert work.word == "waiting"


def test_a_figure_whose_sheet_is_gone_is_drawn_again(tmp_path):
    work = Work(tmp_path, TWO + PICTURES)
    work.scored(work.sources[0], "ab")
    work.draw()
    (work.folder.path / "figure-4.png").unlink()
    assert work.word == "waiting"


def test_a_figure_is_blocked_where_all_that_it_shows_has_failed(tmp_path):
    work = Work(tmp_path, TWO + PICTURES)
    assert work.word == "waiting"
    for place, word in enumerate(("waiting", "blocked")):
        work.folder.note(work.sources[place], {"state": "failed", "started": "then", "problem": "no file"})
        assert work.word == word
    assert states(work.cells, work.folder)[-1].about == "needs net, kmeans, scenes, other, kmeans, scenes"


def test_pictures_of_no_common_image_give_a_line(tmp_path):
    work = Work(tmp_path, TWO + PICTURES)
    work.scored(work.sources[0], "a")
    work.scored(work.sources[1], "b")
    assert "net, other have no picture of the same image" in work.draw()["problem"]


def test_the_newest_picture_of_a_pretraining_is_shown(tmp_path):
    work = Work(tmp_path, MATCHES)
    folder = work.sources[0].output / "pictures"
    for name, colour in {"matches-00000009": "a", "matches-00000100": "b", "clusters-00000100": "c"}.items():
        save(folder / f"{name}.png", colour)
    work.done(work.sources[0])
    assert work.draw()["state"] == "done"
    assert shown(work.sheet) == {"b": 1}


@pytest.mark.parametrize(
    ("made", "problem"),
    [([], "it was trained without --visualise"), (["match-00000009"], "unknown picture 'matches': did you mean 'match'")],
)
def test_a_picture_that_a_pretraining_did_not_draw_gives_a_line(made, problem, tmp_path):
    work = Work(tmp_path, MATCHES)
    for name in made:
        save(work.sources[0].output / "pictures" / f"{name}.png", "a")
    work.done(work.sources[0])
    note = work.draw()
    assert note["state"] == "failed" and problem in note["problem"] and note["users"]


def test_a_curve_is_a_column_of_the_log(tmp_path):
    work = Work(tmp_path, CURVE)
    work.sources[0].output.mkdir(parents=True)
    log = work.sources[0].output / "log.csv"
    log.write_text("step,epoch,ratio\n1,0.5,0.1\n2,1,0.3\n3,1.5,0.6\n")
    work.done(work.sources[0])
    assert work.draw()["state"] == "done"
    first = work.sheet
    log.write_text("step,epoch,ratio\n1,0.5,0.4\n2,1,0.3\n3,1.5,0.1\n")
    work.done(work.sources[0], ended="later")
    work.draw()
    assert first.tobytes() != work.sheet.tobytes()


def test_a_column_that_is_not_there_gives_a_line(tmp_path):
    work = Work(tmp_path, CURVE)
    work.sources[0].output.mkdir(parents=True)
    (work.sources[0].output / "log.csv").write_text("step,epoch,ratios\n1,0.5,0.1\n")
    work.done(work.sources[0])
    assert "unknown column 'ratio': did you mean 'ratios'" in work.draw()["problem"]


def test_points_are_means_over_epochs_or_those_of_steps():
    log = [{"step": "1", "epoch": "0.5", "x": "1"}, {"step": "2", "epoch": "1", "x": "3"}, {"step": "3", "epoch": "1"},
           {"step": "4", "epoch": "1.5", "x": "8"}]  # fmt: skip
    assert points_of(log, "x", "epoch") == ([1, 2], [2, 8])
    assert points_of(log, "x", "step") == ([1, 2, 4], [1, 3, 8])


@pytest.mark.parametrize("kind", late(["similarity", "attention", "embedding"], "attention"))
def test_maps_are_drawn_of_every_vit(kind, tmp_path):
    pixels = '[[backbone]]\nspec = "pixels:16"\nname = "pixels"\n'
    work = Work(tmp_path, TWO + pixels + MAPS.replace("KIND", kind))
    note = work.draw()
    assert note["state"] == "done" and list(note["not_drawn"]) == ["pixels"]
    assert work.sheet.shape[1] > 2 * 224
    assert work.word == "done"


def test_maps_of_no_vit_give_a_line(tmp_path):
    work = Work(tmp_path, '[[backbone]]\nspec = "pixels:16"\nname = "pixels"\n' + MAPS.replace("KIND", "attention"))
    assert "is no ViT" in work.draw()["problem"]


def test_weights_that_come_later_are_drawn_then(tmp_path):
    weighed = '[[backbone]]\nspec = "timm:test_vit"\nweights = "net.pth"\nname = "weighed"\n'
    work = Work(tmp_path, BACKBONE + weighed + MAPS.replace("KIND", "similarity"))
    assert list(work.draw()["not_drawn"]) == ["weighed"]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.pth").write_bytes(b"new")
    assert work.word == "waiting"


def test_the_states_say_where_the_sheet_is(tmp_path):
    work = Work(tmp_path, BACKBONE + MAPS.replace("KIND", "similarity"))
    work.draw()
    about = states(work.cells, work.folder)[-1].json()
    assert json.loads(json.dumps(about))["outputs"] == [str(work.folder.path / "figure-3.png")]
