"""How many values options take and how large those may be: one line for whatever goes beyond, from wherever it comes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import command_line
import pytest

from densebench import catalog, cli, options
from densebench.backbones.loading import load_backbone
from densebench.cli import entry_options
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evaluation.probe import parse
from densebench.evaluation.run import evaluate
from densebench.options import axis, runtime, setting
from densebench.source import flags_in_source
from densebench.training.optimisation import stairs
from densebench.training.run import train


@dataclass(frozen=True)
class Example:
    span: tuple[float, float] = setting((0.5, 1.0), "share, from,to", minimum=0, maximum=1)
    free: tuple[int, ...] = axis((1, 8), "which", minimum=1)
    side: int = setting(16, "of the image", minimum=1, maximum=512)
    rate: float = runtime(0.5, "how fast")


SAME = """
@dataclass
class Example:
    span: tuple[float, float] = setting((0.5, 1.0), "share, from,to", minimum=0, maximum=1)
    free: tuple[int, ...] = axis((1, 8), "which", minimum=1)
    side: int = setting(16, "of the image", minimum=1, maximum=512)
    rate: float = runtime(0.5, "how fast")
"""


def refused(given, kind=Example):
    with pytest.raises(UserError) as caught:
        options.build(kind, {}, given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize("value", ["0.5", "0.1,0.2,0.3", "", [0.5], [0.1, 0.2, 0.3], 0.5, []])
def test_a_tuple_of_another_length_is_refused(value):
    assert "NUMBER,NUMBER; share, from,to" in refused({"span": value})


def test_a_tuple_of_its_length_is_taken_from_text_and_from_toml(tmp_path):
    (tmp_path / "own.toml").write_text("span = [0.25, 0.5]")
    assert options.build(Example, {}, {"span": "0.25,0.5"}) == options.build(
        Example, {}, options.read_toml(tmp_path / "own.toml")
    )


def test_help_shows_how_many_values_a_tuple_takes():
    text = entry_options.describe(options.flags(Example))
    assert "--span NUMBER,NUMBER\n" in text and "--free N,...\n" in text


def test_limits_and_lengths_are_read_from_source_too():
    node = ast.parse(SAME).body[0]
    assert flags_in_source(node) == options.flags(Example)


def test_annotations_that_are_types_read_like_those_that_are_text():
    made = {"__annotations__": {"span": tuple[float, float], "side": int | None}}
    made |= {"span": setting((0.0, 1.0), "share"), "side": setting(None, "px")}
    flags = options.flags(dataclass(frozen=True)(type("Live", (), made)))
    assert [flag.annotation for flag in flags] == ["tuple[float, float]", "int | None"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"side": "513"}, "--side 513: it must be at most 512"),
        ({"side": 2**63}, "--side 9223372036854775808: it must be at most 512"),
        ({"span": "0.5,1.5"}, "--span 1.5: it must be at most 1"),
        ({"free": f"1,{10**20}"}, f"--free {10**20}: it must be at most 2147483647"),
        ({"free": ["1"] * 1001}, "it takes 1000 values at most; these are 1001"),
        ({"rate": "1e31"}, "--rate 1e31: it must be at most 1e+30"),
        ({"rate": -(10**40)}, f"--rate -{10**40}: it must be at least -1e+30"),
        ({"rate": 10**400}, "it takes NUMBER; how fast"),
        ({"rate": 10**5000}, "it takes NUMBER; how fast"),
        ({"side": "9" * 5000}, "it takes N; of the image"),
        ({"rate": "1e400"}, "--rate 1e400: it takes NUMBER"),
    ],
)
def test_numbers_beyond_their_limits_are_one_short_line(given, message):
    assert message in refused(given)


def parts(kind):
    return [(name, part) for name, entry in catalog.entries(kind).items() for part in (entry, *entry.others)]


@pytest.mark.parametrize("kind", ["methods", "protocols"])
def test_every_numeric_option_has_limits_that_hold_its_default(kind):
    for name, part in parts(kind):
        for flag in part.flags():
            if not any(word in flag.annotation for word in ("int", "float")):
                continue
            assert flag.default is None or flag.read(flag.default) == flag.default, (name, flag)
            for value in (10**40, -(10**40)):
                with pytest.raises(UserError, match=r"it must be at (most|least)"):
                    flag.read([value] * (flag.length or 1) if flag.is_list else value)


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 10**20}, {"out_dim": 10**12}, {"epochs": 10**9}, {"batch_size": 10**9}, {"hidden_dim": 10**9},
        {"image_size": 10**6}, {"workers": 10**6}, {"teacher_temp_epochs": 10**12}, {"global_scale": "0.5"},
        {"colour_jitter": "1,1"}, {"blur_sigma": (2.0, 0.1)}, {"local_scale": (0.1, 0.2, 0.3)},
    ],
)  # fmt: skip
def test_what_no_memory_holds_is_refused_before_a_run(given, tmp_path):
    [name] = given
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} "):
        train("dino", data=["scenes"], output=tmp_path / "run", dry_run=True, **given)


def test_epochs_of_too_many_steps_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--epochs 1000000: 256000000 steps; 100000000 are the most, 390625 epochs"):
        train("dino", data=["scenes"], output=tmp_path / "run", dry_run=True, epochs=1_000_000, batch_size=1)


@pytest.mark.parametrize(
    "given", [{"augment_epochs": 10**20}, {"seeds": 10**9}, {"memory_size": 10**20}, {"fractions": [10**20]}]
)
def test_what_no_memory_holds_is_refused_before_scoring(given):
    with pytest.raises(UserError, match="it must be at most"):
        evaluate("pixels:16", "incontext", "scenes", dry_run=True, **given)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**20])
def test_seeds_outside_of_63_bits_are_refused(seed, tmp_path):
    for call in (
        lambda: load_backbone("random:test_vit", seed=seed),
        lambda: evaluate("random:test_vit", "incontext", "scenes", seed=seed, dry_run=True),
        lambda: train("dino", data=["scenes"], output=tmp_path, seed=seed, dry_run=True),
    ):
        with pytest.raises(UserError, match=rf"--seed {seed}: it must be at"):
            call()


@pytest.mark.parametrize("limit", [0, -3, 2**63])
def test_limits_on_images_outside_of_what_is_there_are_refused(limit, tmp_path):
    for call in (
        lambda: evaluate("pixels:16", "incontext", "scenes", limit=limit, dry_run=True),
        lambda: train("dino", data=["scenes"], output=tmp_path, limit=limit, dry_run=True),
    ):
        with pytest.raises(UserError, match=rf"--limit {limit}: it must be at"):
            call()


@pytest.mark.parametrize("side", ["²", "١٦", "0", "-3", "016", "16.0", "99999", "9" * 5000, "x"])
def test_sides_of_pixels_are_plain_numbers(side):
    with pytest.raises(UserError, match="it takes the side of a patch in px, from 1 to 9999"):
        load_backbone(f"pixels:{side}")


def test_digits_that_are_no_numbers_belong_to_the_name_of_a_probed_data_set():
    assert parse("voc:²") == ("voc:²", None) and parse("voc:20") == ("voc", 20)


def test_frames_with_odd_digits_in_their_names_are_listed(tmp_path):
    from PIL import Image

    for name in ("1²1", "1²2"):
        for folder in ("JPEGImages/480p", "Annotations/480p"):
            path = tmp_path / folder / "clip" / f"{name}.{'jpg' if 'JPEG' in folder else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if "JPEG" in folder else "L", (8, 8)).save(path)
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "val.txt").write_text("clip\n")
    dataset = load_dataset(f"frames:{tmp_path}")
    assert [Path(item.name).name for item in dataset.items("val")] == ["1²1", "1²2"]


def test_stairs_hold_their_end_after_the_last_epoch():
    assert stairs(0.0, 1.0, 7, 2, 3).tolist() == [0, 0, 0.5, 0.5, 1, 1, 1]
    assert stairs(0.3, 0.7, 3, 2, 0).tolist() == [0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried\nmore"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 4]"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line_and_status_2(error, monkeypatch, capsys):
    def app(prog_name):
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1 and "memory does not suffice" in said and "Give smaller sizes" in said


def test_other_errors_keep_their_traceback(monkeypatch):
    def app(prog_name):
        raise RuntimeError("a slip of ours")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(RuntimeError, match="a slip of ours"):
        cli.main()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--debias -1", "it must be greater than or equal to 1"),
        ("--limit x", "it must be a valid integer"),
    ],
)
def test_what_every_protocol_takes_is_refused_in_one_line(tmp_path, given, message):
    done = command_line.call("eval", *given.split(), folder=tmp_path)
    assert done.error == f"densebench: {given}: {message}" and len(done.err.splitlines()) == 1
