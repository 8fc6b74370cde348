"""`densebench segment` on the command line."""

from __future__ import annotations

import pytest
from command_line import LIGHT, call, run
from halved import BACKBONE, labelled, new_pictures


@pytest.fixture
def place(tmp_path):
    labelled(tmp_path / "known")
    new_pictures(tmp_path / "photos", "a.png", "in/b.png")
    return tmp_path


GIVEN = ("--labels", "known", "--backbone", BACKBONE)
OWN = ("--image-size", 64, "--neighbours", 3, "--augment-epochs=0")


def test_options_of_the_protocol_may_stand_among_the_pictures(place):
    done = call("segment", "photos/a.png", *OWN, "photos/in", *GIVEN, folder=place)
    assert (done.status, done.out) == (0, "segmented: 2 label maps of 2 classes\n")
    assert (place / "segmented" / "labels" / "in" / "b.png").is_file()
    again = call("segment", "photos/a.png", *OWN, "photos/in", *GIVEN, folder=place)
    assert again.out == "segmented: 2 label maps of 2 classes (2 were there already)\n"


def test_a_broken_picture_ends_with_status_2_after_the_others(place):
    (place / "photos" / "broken.jpg").write_bytes(b"nothing")
    done = call("segment", "photos", *OWN, *GIVEN, "--no-overlays", "--output", "out", folder=place)
    assert done.status == 2
    assert done.out == "out: 2 label maps of 2 classes; 1 picture has none\n"
    assert "photos/broken.jpg cannot be opened" in done.err
    assert sorted(path.name for path in (place / "out").iterdir()) == ["classes.toml", "images", "labels", "segment.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("photos", "--labels", "known"), "--backbone SPEC is missing"),
        (GIVEN, "IMAGES is missing"),
        (("photos", *GIVEN, "--neighbors", 3), "did you mean '--neighbours'?"),
        (("photos", *GIVEN, "--fractions", 3), "unknown option '--fractions'"),
        (("photos", *GIVEN, "--method", "linear", "--preset", "lbfsg"), "did you mean 'lbfgs'?"),
        (("photos", *GIVEN, "--method", "linear", "--preset", "neco"), "cannot label new images"),
        (("photos", *GIVEN, "--patch-labels", "pixel"), "did you mean 'pixels'?"),
    ],
)
def test_mistakes_are_one_line(place, words, message):
    assert message in call("segment", *words, folder=place).error


def test_the_help_shows_the_options_that_have_an_effect(tmp_path):
    done = run("segment", "--help", folder=tmp_path, before=LIGHT)
    assert done.out.strip().endswith("LIGHT")
    assert "--patch-labels soft|majority|pixels" in done.out
    assert "--fractions" not in done.out
