"""A record for people: what stands in it, beside its preset, averaged over seeds; odd records; any width."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
from made_records import header, miou, write
from rich.cells import cell_len

from densebench.results import record as records
from densebench.results.agreement import Presets
from densebench.results.score import Score
from densebench.results.sheet import text
from densebench.results.showing import command_lines, show

NASTY = "a <b>'\"&</script>\x1b[31m\nname [bold]of[/bold] 视觉"


def lines_of(shown, title):
    """The lines of the section of this title, without their indent."""
    sections = str(shown).split("\n\n")
    [found] = [section for section in sections if section.startswith(title)]
    return [line.strip() for line in found.splitlines()[1:]]


def usual():
    return dict(Presets().expected("incontext", "hummingbird", "scenes").settings)


def test_numbers_are_means_over_seeds_with_their_interval(tmp_path):
    replicates = list(range(0, 101))
    write(tmp_path, "mine", {(8, 0): 10.0, (8, 1): 12.0, (1, None): 20.0}, replicates=replicates)
    rows = lines_of(show("mine", tmp_path), "Scores: identity mIoU in %")
    assert rows[0].split("  ")[0] == "point"
    assert rows[1].split() == ["1/8", "11.00", "±", "1.41", "2.50", "to", "97.50", "2"]
    assert rows[2].split() == ["1/1", "20.00", "2.50", "to", "97.50"]
    others = lines_of(show("mine", tmp_path), "Other metrics and variants")
    assert others[1].split() == ["mIoU", "in", "%", "hungarian", "12.00", "±", "1.41", "21.00"]


def test_settings_stand_beside_those_of_the_preset(tmp_path):
    write(tmp_path, "as the preset", {}, settings=usual())
    assert "settings  as in the preset" in lines_of(show("as the preset", tmp_path), "Protocol")
    changed = {**usual(), "image_size": 96, "neighbours": [5, 7]}
    write(tmp_path, "changed", {}, settings=changed)
    shown = show("changed", tmp_path)
    rows = lines_of(shown, "Protocol")
    assert rows[1] == f"settings  {len(changed) - 2} as in the preset, 2 changed"
    assert [row.split()[:2] for row in rows[3:]] == [["image_size", "96"], ["neighbours", "5,"]]
    assert shown.json()["protocol"]["changed"]["image_size"] == {"value": 96, "preset": usual()["image_size"]}


def test_settings_of_a_protocol_that_is_not_known_are_all_listed(tmp_path):
    write(tmp_path, "mine", {}, protocol="nobody's", settings={"depth": 3, "sides": [1, 2]})
    shown = show("mine", tmp_path)
    assert lines_of(shown, "Protocol")[1:] == [
        "settings  the preset is not known here, so all are listed",
        "setting  value",
        "depth    3",
        "sides    1, 2",
    ]
    assert shown.json()["protocol"]["changed"] is None


def test_classes_are_sorted_best_first_by_the_direction(tmp_path):
    record = write(tmp_path, "mine", {}, headline=("error", "plain"))
    classes = {"sea": 4.0, "sky": None, "road": 1.0}
    record.add([Score("error", "plain", 2.5, "px", per_class=classes, direction="lower", digits=2)])
    rows = lines_of(show("mine", tmp_path), "Classes at value: plain error in px, lower is better")
    assert [row.split() for row in rows] == [
        ["class", "value"], ["road", "1.00"], ["sea", "4.00"], ["without", "a", "value:", "sky"],
    ]  # fmt: skip


def test_classes_are_those_of_the_headline_at_the_most_data(tmp_path):
    record = write(tmp_path, "mine", {})
    for fraction, value in ((8, 1.0), (1, 2.0)):
        record.add([Score("miou", "identity", 5.0, axes={"fraction": fraction}, per_class={"sky": value}, direction="higher")])
    record.add([Score("miou", "hungarian", 5.0, axes={"fraction": 1}, per_class={"sky": 9.0}, direction="higher")])
    assert show("mine", tmp_path).json()["classes"] == {"point": {"fraction": 1}, "values": {"sky": 2.0}}


@pytest.mark.parametrize(
    ("status", "limit", "run", "said"),
    [
        ("failed", None, {}, "its run failed"),
        ("complete", 3, {}, "cut to 3 images of each split"),
        ("complete", None, {"rehearsal": True}, "made in a rehearsal"),
    ],
)
def test_what_keeps_a_record_out_of_tables_is_marked(tmp_path, status, limit, run, said):
    record = records.open_or_create(tmp_path, header("mine", limit=limit))
    record.finish(status, run)
    assert any(said in mark for mark in show("mine", tmp_path).marks)


def test_a_part_of_a_split_and_an_older_version_are_marked(tmp_path):
    values = write(tmp_path, "mine", {}).json()
    assert not show(values).marks
    values["dataset"] |= {"official_images": 640}
    values["protocol"]["version"] = -1
    marks = show(values).marks
    assert marks[0].startswith("64 of 640 images")
    assert marks[1].startswith("version -1 of incontext, which today is version")


def test_costs_of_a_run_of_a_part_of_the_points_say_so(tmp_path):
    record = write(tmp_path, "mine", {(1, 0): 5.0, (8, 0): 4.0})
    record.finish("complete", {"seconds": {"features": 3.5, "total": 5.25}, "host_memory_mb": 2048, "scored_points": 1})
    rows = lines_of(show("mine", tmp_path), "Run")
    assert rows == [
        "seconds  5.2 in all = features 3.5",
        "memory   host 2.0 GiB",
        "costs    of the last run alone, which scored 1 of 2 points",
    ]


def test_a_record_without_scores_says_so(tmp_path):
    write(tmp_path, "mine", {})
    assert lines_of(show("mine", tmp_path), "Scores") == ["there is no score yet"]


def test_the_command_is_one_that_a_shell_reads(tmp_path):
    words = [
        "densebench",
        "eval",
        "--protocol",
        "incontext",
        "--name",
        'it\'s "mine" $HOME',
        "--dataset",
        "voc",
        "--fractions",
        "1,8,64",
    ]
    lines = command_lines(shlex.join(words))
    assert len(lines) > 3
    printed = subprocess.run(["sh", "-c", "printf '%s\\n' " + "\n".join(lines)], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == words
    assert command_lines("densebench eval") == ["densebench eval"]
    assert command_lines('a "broken ' + "word " * 30) == [('a "broken ' + "word " * 30).strip()]
    assert command_lines("") == []


@pytest.fixture
def odd(tmp_path):
    """A record of long and nasty names, of many points and classes."""
    record = write(tmp_path, NASTY, {(f, s): 50.0 / f for f in (1, 8, 64, 128) for s in (0, 1)}, dataset=NASTY, preset="p" * 90)
    classes = {f"{NASTY} {number}": float(number) for number in range(3)}
    record.add([Score("miou", "identity", 5.0, axes={"fraction": 1, "K": NASTY}, per_class=classes, direction="higher")])
    record.finish("complete", {"command": f"densebench eval --name {shlex.quote(NASTY)} " + "--long " * 30, "device": NASTY})
    return show(record.json())


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(odd, width):
    parts = [part for part in odd.sections() if not part.commands]  # a command is left to the terminal to break
    assert max(map(cell_len, text(parts, width).splitlines())) <= width


def test_nothing_controls_the_terminal_and_nothing_is_markup(odd):
    for shown in (str(odd), text(odd.sections(), 80)):
        assert "\x1b" not in shown
        assert "[bold]" in shown


def test_in_a_pipe_a_fact_is_a_line(odd):
    [line] = [line for line in str(odd).splitlines() if line.startswith("  device")]
    assert line.split("  ")[-1] == "a <b>'\"&</script> [31m name [bold]of[/bold] 视觉"


def test_json_holds_the_record_and_its_averages(tmp_path):
    record = write(tmp_path, "mine", {(8, 0): 10.0, (8, 1): 12.0})
    values = json.loads(json.dumps(show("mine", tmp_path).json(), allow_nan=False))
    assert (values["id"], values["file"], values["status"]) == (record.id, str(record.path), "complete")
    [score] = [score for score in values["scores"] if score["variant"] == "identity"]
    assert score["value"] == 11.0
    assert score["heading"] == "1/8"
    assert score["seeds"] == 2
    assert score["low"] is None


def test_older_records_have_other_keys(tmp_path):
    record = write(tmp_path, "mine", {})
    record.add([miou(4.0)])
    record.finish("complete", {"means": {"batch_size": 16}, "peak_memory_mb": 512})
    assert lines_of(show("mine", tmp_path), "Run") == ["memory   peak 0.5 GiB", "options  batch_size 16"]
