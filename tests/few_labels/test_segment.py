"""New pictures labelled by a few labelled ones: what is written, and what a second call does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from halved import BACKBONE, BLUE, OPTIONS, RED, halves, labelled, new_pictures, save
from PIL import Image

import densebench
from densebench.datasets import load_dataset
from densebench.errors import UserError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    labelled(tmp_path / "known")
    return tmp_path


def segment(images="photos", labels="known", **given):
    return densebench.segment(images, labels, BACKBONE, **{**OPTIONS, **given})


def map_of(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_a_label_map_is_a_paletted_png_of_the_pictures_size_with_the_classes_of_the_labels(place):
    picture, labels = halves(160, 96)
    save(place / "photos" / "wide.jpg", picture, quality=95)
    done = segment()
    assert done.classes == ("red", "blue")
    found = map_of(done.paths["wide"])
    assert found.shape == labels.shape
    assert (found == labels).mean() > 0.97
    with Image.open(done.paths["wide"]) as image:
        assert np.reshape(image.getpalette()[:6], (2, 3)).tolist() == [list(c) for c in load_dataset("known").palette()]


def test_the_exact_linear_layer_labels_as_well(place):
    new_pictures(place / "photos", "a.png")
    done = densebench.segment("photos", "known", BACKBONE, "linear", image_size=64, l2=1e-4)
    assert (map_of(done.paths["a"]) == halves(share=3 / 8)[1]).mean() > 0.97


def test_what_is_written_is_a_labelled_folder(place):
    new_pictures(place / "photos", "a.png", "day/b.png", "day/night/c.png", "d.png")
    done = segment()
    again = load_dataset(str(done.folder))
    items = {item.name: item for split in again.splits for item in again.items(split)}
    assert again.classes == ("red", "blue")
    assert sorted(items) == ["a", "d", "day/b", "day/night/c"]
    assert np.array_equal(again.label(items["day/b"]), map_of(done.paths["day/b"]))
    assert np.array_equal(np.array(again.image(items["day/b"])), np.array(Image.open("photos/day/b.png")))
    assert again.verify() == []


def test_an_overlay_shows_each_half_in_the_colour_of_its_class(place):
    new_pictures(place / "photos", "a.png")
    shown = np.array(Image.open(segment().folder / "overlays" / "a.jpg")).astype(int)
    colours = load_dataset("known").palette()
    for x, own, colour in ((20, RED, colours[0]), (-1, BLUE, colours[1])):
        column = shown[100, x if x >= 0 else 230]
        assert np.abs(column - (np.array(own) + colour) / 2).max() < 12


def test_a_second_call_labels_what_is_left_and_keeps_the_rest(place):
    new_pictures(place / "photos", "a.png", "b.png", "c.png")
    assert segment().new == 3
    assert segment().new == 0
    save(place / "photos" / "b.png", halves(share=0.75)[0])  # another picture of that name
    (place / "segmented" / "labels" / "c.png").unlink()
    new_pictures(place / "photos" / "more", "e.png")
    assert segment().new == 3
    assert (map_of("segmented/labels/b.png") == halves(share=0.75)[1]).all()


def test_label_maps_by_other_settings_are_not_mixed(place):
    new_pictures(place / "photos", "a.png")
    segment()
    with pytest.raises(UserError, match="other settings.*--rerun"):
        segment(neighbours=5)
    assert segment(neighbours=5, rerun=True).new == 1


def test_more_labels_are_other_labels(place):
    new_pictures(place / "photos", "a.png")
    segment()
    labelled(place / "known", 5)
    with pytest.raises(UserError, match="other labels"):
        segment()


def test_a_folder_with_other_files_is_left_alone(place):
    new_pictures(place / "photos", "a.png")
    save(place / "segmented" / "labels" / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match="which segment did not write"):
        segment()
    with pytest.raises(UserError, match="which segment did not write"):
        segment(rerun=True)
    assert (place / "segmented" / "labels" / "a.png").is_file()


def test_the_output_and_the_label_maps_are_no_pictures(place):
    """All lies in one folder: pictures, the labelled ones with their label maps, and what is written."""
    new_pictures(place / "known" / "images", "new.png")
    first = segment(".")
    assert sorted(first.paths) == [f"known/images/{name}" for name in ("known-0", "known-1", "known-2", "known-3", "new")]
    assert segment(".").new == 0


def test_one_labelled_image_is_enough(place):
    new_pictures(place / "photos", "a.png")
    done = segment(labels=labelled(place / "one", 1))
    assert (map_of(done.paths["a"]) == halves(share=3 / 8)[1]).mean() > 0.97


def test_facts_say_by_what_the_label_maps_were_made(place):
    new_pictures(place / "photos", "a.png")
    segment(name="the <b>'pixels'</b>")
    facts = json.loads((place / "segmented" / "segment.json").read_text())
    assert facts["backbone"]["name"] == "the <b>'pixels'</b>"
    assert facts["protocol"]["settings"]["neighbours"] == [3]
    assert facts["labels"]["images"] == facts["learned"]["images"] == 4
    assert facts["labels"]["classes"] == ["red", "blue"]
    segment(name="the <b>'pixels'</b>")
    assert json.loads((place / "segmented" / "segment.json").read_text()) == facts


def test_a_split_of_the_labels_can_be_chosen(place):
    new_pictures(place / "photos", "a.png")
    known = load_dataset("known")
    segment(split="val")
    facts = json.loads((place / "segmented" / "segment.json").read_text())
    assert facts["labels"]["images"] == len(known.items("val")) < 4
    with pytest.raises(UserError, match="unknown split 'vla'"):
        segment(split="vla")


def test_in_memory_label_maps_are_those_that_are_written(place):
    new_pictures(place / "photos", "a.png", "b.png")
    done = segment()
    arrays = [np.array(Image.open(place / "photos" / f"{name}.png")) for name in "ab"]
    found = dict(densebench.iter_segment(arrays, "known", BACKBONE, **OPTIONS))
    assert list(found) == ["000000", "000001"]
    for labels, name in zip(found.values(), "ab", strict=True):
        assert np.array_equal(labels, map_of(done.paths[name]))


def test_features_of_new_pictures_are_not_stored(place):
    new_pictures(place / "photos", "a.png")
    segment()
    before = sum(path.stat().st_size for path in (place / "cache" / "features").rglob("*") if path.is_file())
    new_pictures(place / "photos", "a.png", "b.png", "c.png", "d.png")
    segment()
    assert sum(path.stat().st_size for path in (place / "cache" / "features").rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fractions": (1, 8)}, "--fractions has no effect"),
        ({"score_at": "native"}, "--score-at has no effect"),
        ({"images": "nothing"}, "unknown picture, folder or data set 'nothing'"),
        ({"images": []}, "no picture is named"),
        ({"method": "kmeans"}, "cannot label new images; .*incontext.*linear"),
        ({"neighbours": 10_000}, "holds 256 patches; ask for fewer neighbours"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(place, given, message):
    new_pictures(place / "photos", "a.png")
    given = {"augment_epochs": 0, "image_size": 64, "images": "photos", **given}
    if given.get("method") == "kmeans":
        del given["augment_epochs"]
    images, method = given.pop("images"), given.pop("method", "incontext")
    with pytest.raises(UserError, match=message):
        densebench.segment(images, "known", BACKBONE, method, **given)


def test_a_label_map_does_not_depend_on_what_is_labelled_with_it(place):
    new_pictures(place / "photos", "a.png", "b.png", "c.png")
    together = segment(batch_size=3, output="together")
    alone = segment("photos/b.png", output="alone")
    assert np.array_equal(map_of(alone.paths["b"]), map_of(together.paths["b"]))
