"""`densebench choose`: a folder in, a sentence out."""

import json

import numpy as np
import pytest
from command_line import LIGHT, call, run
from PIL import Image

QUICK = ("--protocol", "incontext", "--image-size", "32", "--folds", "2", "--repetitions", "1")


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes, one dark and one bright."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for i in range(6):
        label = rng.integers(0, 2, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        image = np.clip(label[..., None] * 120 + rng.normal(60, 15, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos/images" / f"{i}.png")
        Image.fromarray(label).save(tmp_path / "photos/labels" / f"{i}.png")
    return tmp_path


def test_help_does_not_import_torch(tmp_path):
    done = run("choose", "--help", folder=tmp_path, before=LIGHT)
    assert (done.status, done.out.splitlines()[-1]) == (0, "LIGHT")


def test_a_folder_in_and_a_sentence_out(folder):
    done = call("choose", "photos", "--backbone", "pixels:8", "--name", "<b>", *QUICK, "--output", "page.html", folder=folder)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1].startswith("<b> reaches ")
    assert "all 6 labelled images are used" in done.err and "by seed" not in done.err
    page = (folder / "page.html").read_text()
    assert "&lt;b&gt; reaches " in page and "<b>" not in page
    assert not (folder / "results").exists()


def test_json_and_a_backbone_that_fails(folder):
    words = ("--backbone", "pixels:8", "--backbone", "random:nothing_of_this_name")
    done = call("choose", "photos", *words, *QUICK, "--json", folder=folder)
    assert done.status == 2
    values = json.loads(done.out)
    assert [failure["backbone"] for failure in values["failures"]] == ["random:nothing_of_this_name"]
    assert values["sentence"].endswith("random:nothing_of_this_name failed and is not compared.")


def test_mistakes_are_one_line(folder):
    for words in (("nowhere", "--backbone", "pixels:8"), ("photos", "--backbone", "pixels:8", "--groups", "(")):
        done = call("choose", *words, *QUICK, folder=folder)
        assert done.error
    assert "name the backbones to choose among" in call("choose", "photos", *QUICK, folder=folder).error


def test_a_page_that_cannot_be_written_is_refused_before_any_backbone_is_scored(folder):
    done = call("choose", "photos", "--backbone", "pixels:8", *QUICK, "--output", "photos", folder=folder)
    assert done.error == "densebench: cannot write photos: there is a folder of that name; give the name of a file"
    assert "models" not in done.err


@pytest.mark.parametrize("left", [1, 3])
def test_too_few_labelled_images_are_told_how_many_a_cross_validation_takes(folder, left):
    for i in range(left, 6):
        for kind in ("images", "labels"):
            (folder / "photos" / kind / f"{i}.png").unlink()
    error = call("choose", "photos", "--backbone", "pixels:8", *QUICK, folder=folder).error
    assert "a cross-validation takes at least 4" in error
    assert "split by seed" not in error
