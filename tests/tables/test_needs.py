"""What the cells of a table need, and what of it is not there."""

from __future__ import annotations

import hashlib
import io
import json

import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN

from densebench.tables import presence
from densebench.tables.listing import as_json, render, summary, summary_lines
from densebench.tables.presence import CELL, DATA, OPTION, PACKAGE, WEIGHTS

SMALL = EVALUATION + "limit = 4\nclusters = [2]\nseeds = 1\nimage_size = 32\nmask_size = 32\n"
INCONTEXT = '[[evaluation]]\nprotocol = "incontext"\ndatasets = ["scenes"]\nimage_size = 32\nlimit = 4\n'
WEIGHED = BACKBONE.replace("random:", "timm:") + 'weights = "net.pth"\nurl = "https://example.org/net.pth"\n'


pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_cell_that_lacks_nothing_can_run_and_its_storage_is_known(of):
    [need] = of(BACKBONE + SMALL)
    assert (need.can_run, need.lacks) == (True, ())
    assert need.size.images == 4
    assert need.size.bytes == 4 * (32 // 16) ** 2 * 64 * 4  # images, patches, channels, float32


def test_a_trial_estimates_time(of):
    found = of(BACKBONE + SMALL, trial=True)
    assert found.cells[0].size.seconds > 0
    assert summary(found)["seconds"] is not None


def test_features_that_cells_share_count_once(of):
    found = of(BACKBONE + SMALL + SMALL.replace("[2]", "[3]"))
    assert [need.size.bytes for need in found] == [found.bytes, found.bytes]


def test_missing_weights_are_named_with_their_address(of, tmp_path):
    [need] = of(WEIGHED + f'sha256 = "{"0" * 64}"\n' + SMALL)
    [lack] = need.lacks
    assert (lack.kind, lack.name, lack.url, lack.sha256) == (
        WEIGHTS,
        str(tmp_path / "net.pth"),
        "https://example.org/net.pth",
        "0" * 64,
    )
    assert not need.can_run
    assert (need.size.bytes, need.size.why) == (None, "something is missing")


def test_weights_with_another_digest_are_refused(of, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    [wrong] = of(WEIGHED + f'sha256 = "{"0" * 64}"\n' + SMALL)
    assert f"has the sha256 {right}, another one than the table says" in wrong.lacks[0].what
    [as_said] = of(WEIGHED + f'sha256 = "{right}"\n' + SMALL)
    assert "sha256" not in as_said.lacks[0].what  # but they cannot be loaded


def test_weights_that_cannot_be_loaded_are_told_before_the_run(of, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    [need] = of(WEIGHED + SMALL)
    assert [(lack.kind, lack.name) for lack in need.lacks] == [(WEIGHTS, str(tmp_path / "net.pth"))]


def test_missing_data_are_named_with_what_fetches_them(of):
    found = of(BACKBONE + SMALL.replace("scenes", "voc"))
    [lack] = found.cells[0].lacks
    assert (lack.kind, lack.name) == (DATA, "voc")
    assert "densebench data get voc" in " ".join(summary_lines(found))


def test_data_that_a_pretraining_lacks_keep_its_checkpoint_from_being_scored(of):
    made, scored = of(PRETRAIN.replace("scenes", "coco") + SMALL)
    assert [lack.kind for lack in made.lacks] == [DATA]
    assert [(lack.kind, lack.name) for lack in scored.lacks] == [(CELL, "run")]


def test_a_checkpoint_that_does_not_exist_yet_is_waited_for(of):
    made, scored = of(PRETRAIN + 'preset = "tiny"\nlimit = 8\nbatch_size = 4\n' + SMALL)
    assert (made.size.images, made.can_run, made.done) == (8, True, False)
    assert (scored.can_run, scored.waits, scored.size.why) == (True, ("run",), "the checkpoint does not exist yet")


def test_options_that_do_not_fit_are_told_before_the_run(of):
    [need] = of(BACKBONE + SMALL.replace("image_size = 32", "image_size = 20"))
    [lack] = need.lacks
    assert lack.kind == OPTION
    assert "20" in lack.what


def test_packages_that_are_not_installed(of, monkeypatch):
    monkeypatch.setattr(presence, "is_installed", lambda package: package != "simplejpeg")
    [need] = of(BACKBONE + SMALL + 'decoder = "turbo"\n')
    assert [(lack.kind, lack.remedy) for lack in need.lacks] == [(PACKAGE, "pip install 'densebench[fast]'")]


def test_weights_that_a_library_fetches_are_a_note_and_nothing_is_fetched(of):
    [need] = of(BACKBONE.replace("random:", "timm:") + SMALL)
    assert need.can_run
    assert "fetched when it is loaded" in need.notes[0]
    assert need.size.bytes is None


def test_the_summary_has_every_missing_thing_once(of):
    other = WEIGHED.replace('"net"', '"again"') + 'layer = "key"\n'
    values = summary(of(BACKBONE.replace('"net"', '"there"') + WEIGHED + other + SMALL + INCONTEXT))
    assert (values["cells"], values["can_run"], values["lack_weights"], values["lack_data"]) == (6, 2, 4, 0)
    [entry] = values["weights"]
    assert (entry["cells"], entry["url"]) == (4, "https://example.org/net.pth")


def test_the_list_names_cells_and_what_is_not_there(of):
    found = of(WEIGHED + SMALL)
    heading, line, *rest = render(found, None)
    assert heading.split()[:2] == ["id", "cell"]
    assert line.split() == [found.cells[0].cell.id, "net,", "kmeans", "scenes", *["not", "estimated"] * 2, "weights:", "net.pth"]
    assert rest[0] == "1 cells: 0 can run, 1 lack weights"


def test_the_list_says_which_cells_are_pretrainings_and_which_are_figures(of):
    figure = '[[figure]]\nnumber = 6\ntitle = "clusters"\npictures = {protocol = "kmeans", dataset = "scenes"}\n'
    text = "\n".join(str(part) for part in render(of(PRETRAIN + SMALL + figure), None))
    assert "run, pretrain dino" in text and "Figure 6: clusters  " in text


def test_the_list_fits_a_terminal(of):
    from rich.console import Console

    console = Console(width=60, record=True, file=io.StringIO())
    for part in render(of(WEIGHED + SMALL), 60):
        if not isinstance(part, str):
            console.print(part)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert any("net.pth" in line for line in lines)


def test_needs_are_json_values(of):
    values = as_json(of(WEIGHED + SMALL))
    assert json.loads(json.dumps(values)) == values
    assert values["cells"][0]["lacks"][0]["url"] == "https://example.org/net.pth"
