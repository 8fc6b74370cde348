"""A figure of a table: what its entry takes, its cell, and the cells that make what it shows."""

from __future__ import annotations

import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN, read

from densebench.errors import UserError
from densebench.tables.cells import Places, cells
from densebench.tables.needs import needs

PICTURES = '[[figure]]\nnumber = 4\ntitle = "Nearest"\npictures = {protocol = "kmeans", dataset = "scenes", count = 3}\n'
MATCHES = '[[figure]]\nnumber = 3\npictures = {pretraining = "matches", count = 2}\n'
CURVE = '[[figure]]\nnumber = 5\ncurve = {column = "loss"}\n'
MAPS = '[[figure]]\nnumber = "3a"\nmaps = {of = "attention", dataset = "scenes"}\n'
ALL = BACKBONE + PRETRAIN + PICTURES + MATCHES + CURVE + MAPS
WEIGHED = BACKBONE.replace("random:", "timm:").replace('"net"', '"weighed"') + 'weights = "net.pth"\n'


def by_label(text, folder, *overrides):
    return {
        cell.label: cell for cell in cells(read(folder, text, *overrides), Places(folder / "results", folder / "runs", folder))
    }


WRONG = {
    "an unknown key": ("nubmer = 3\n" + CURVE[11:], "[[figure]] 1: unknown key 'nubmer': did you mean 'number'"),
    "no number": ('curve = {column = "loss"}\n', "[[figure]] 1: number is missing"),
    "a number that is no name of a file": (
        'number = "a/b"\ncurve = {column = "loss"}\n',
        "number = a/b: it takes a number",
    ),
    "nothing": ("number = 3\n", "[[figure]] 1: it shows nothing; give one of pictures, curve, maps"),
    "two things": (MATCHES[11:] + CURVE.splitlines()[2] + "\n", "pictures and curve are given; give one of"),
    "an unknown key of pictures": (PICTURES[11:].replace("count", "cuont"), "[[figure]] 1, pictures: unknown key 'cuont'"),
    "an unknown key of a curve": (
        "number = 3\ncurve = {colum = 3}\n",
        "[[figure]] 1, curve: unknown key 'colum': did you",
    ),
    "no column": ("number = 3\ncurve = {}\n", "[[figure]] 1, curve: column is missing"),
    "an unknown protocol": (PICTURES[11:].replace("kmeans", "kmean"), "unknown protocol 'kmean': did you mean 'kmeans'"),
    "an unknown data set": (PICTURES[11:].replace("scenes", "scene"), "unknown data set 'scene': did you mean 'scenes'"),
    "a protocol without pictures": (PICTURES[11:].replace("kmeans", "bbox-knn"), "protocol = bbox-knn: it draws no pictures"),
    "a count twice": (PICTURES[11:].replace("count", "visualise"), "visualise: count says how many"),
    "other maps": (MAPS[11:].replace('"attention"', '"atention"'), "of = atention: it takes similarity, attention or embedding"),
    "maps of videos": (MAPS[11:].replace('"scenes"', '"davis2017"'), "davis2017 has videos; maps takes label maps"),
    "an unknown backbone": (MAPS[11:] + 'backbones = ["nett"]\n', "unknown name in backbones 'nett': did you mean 'net'"),
    "pictures of what is not trained": (MATCHES[11:] + 'backbones = ["net"]\n', "net is not trained here"),
    "a number twice": (MATCHES[11:] + CURVE.replace("5", "3"), "[[figure]] 1 and [[figure]] 2: the figure '3' is there twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_whatever_is_wrong_gives_one_line(case, tmp_path):
    text, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        read(tmp_path, BACKBONE + PRETRAIN + "[[figure]]\n" + text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_curve_needs_a_pretraining(tmp_path):
    with pytest.raises(UserError, match=r"it shows no backbone; it needs a \[\[pretrain\]\]"):
        read(tmp_path, BACKBONE + EVALUATION + CURVE)


def test_figures_come_last_and_want_the_cells_that_make_what_they_show(tmp_path):
    made = by_label(ALL, tmp_path)
    assert list(made) == [
        "run", "net, kmeans, scenes", "run, kmeans, scenes", "Figure 4: Nearest", "Figure 3", "Figure 5", "Figure 3a",
    ]  # fmt: skip
    run, net, ours = (made[label].id for label in ("run", "net, kmeans, scenes", "run, kmeans, scenes"))
    wants = {label: cell.wants for label, cell in made.items() if cell.kind == "figure"}
    assert wants == {"Figure 4: Nearest": (net, ours), "Figure 3": (run,), "Figure 5": (run,), "Figure 3a": (run,)}
    assert all(not cell.needs for cell in made.values() if cell.kind == "figure")


def test_what_a_figure_shows_is_drawn_and_nothing_else_about_it_changes(tmp_path):
    plain, drawing = by_label(BACKBONE + PRETRAIN + EVALUATION, tmp_path), by_label(ALL + EVALUATION, tmp_path)
    for label, count in (("run", 2), ("net, kmeans, scenes", 3)):
        assert drawing[label].id == plain[label].id
        assert drawing[label].request == {**plain[label].request, "visualise": count}
        assert drawing[label].command == (*plain[label].command, f"--visualise={count}")


def test_figures_that_share_pictures_ask_for_the_larger_number(tmp_path):
    more = PICTURES.replace("4", "6").replace("count = 3", "count = 9")
    for text in (PICTURES + more, more + PICTURES):
        made = by_label(BACKBONE + text, tmp_path)
        assert made["net, kmeans, scenes"].request["visualise"] == 9
        assert {part["made_by"]["visualise"] for cell in made.values() for part in cell.parts} == {9}


@pytest.mark.parametrize(
    ("old", "new"), [("kmeans", "incontext"), ("Nearest", "Far"), ("count = 3", "count = 2"), ('"net"', '"own"')]
)
def test_another_figure_has_another_id(old, new, tmp_path):
    ids = [next(cell.id for cell in by_label(text, tmp_path).values() if cell.kind == "figure")
           for text in (BACKBONE + PICTURES, (BACKBONE + PICTURES).replace(old, new))]  # fmt: skip
    assert ids[0] != ids[1]


def test_a_rehearsal_makes_figures_small_as_well(tmp_path):
    layers = MAPS.replace("}", ", layers = [11]}").replace('"scenes"', '"voc"')
    text = BACKBONE + PICTURES.replace('"scenes"', '"voc"') + layers
    made = by_label(text, tmp_path, "data=scenes", "limit=4", "arch=test_vit", "seeds=1")
    scored = made["net, kmeans, scenes"].request
    assert (scored["limit"], scored["seeds"], scored["visualise"]) == (4, 1, 3)
    assert made["Figure 3a"].request["settings"] == {
        "of": "attention",
        "dataset": "scenes",
        "layers": None,
        "images": 3,
        "image_size": 224,
    }


def test_a_dry_run_says_what_a_figure_is_drawn_without(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    cheap = PICTURES.replace("count = 3", "limit = 4, image_size = 32, mask_size = 32, clusters = [2], seeds = 1")
    places = Places(tmp_path / "results", tmp_path / "runs", tmp_path)
    found = {need.cell.label: need for need in needs(cells(read(tmp_path, BACKBONE + WEIGHED + cheap + MAPS), places), places)}
    pictures, maps = found["Figure 4: Nearest"], found["Figure 3a"]
    assert pictures.can_run and pictures.notes == ("Figure 4: Nearest: drawn without weighed",)
    assert pictures.waits == ("net, kmeans, scenes", "weighed, kmeans, scenes")
    assert maps.can_run and maps.notes == ("Figure 3a: drawn without weighed",)
    found = {need.cell.label: need for need in needs(cells(read(tmp_path, WEIGHED + cheap + MAPS), places), places)}
    assert not found["Figure 4: Nearest"].can_run
    assert [lack.kind for lack in found["Figure 3a"].lacks] == ["weights"]
