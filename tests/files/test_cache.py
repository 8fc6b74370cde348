"""The cache: only what densebench made is removed, and only while no run uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from tiers import late

from densebench.files import cache
from densebench.files.cache import Hold
from densebench.files.locks import lock_exclusively
from densebench.files.store import Store


def command(root, *words):
    done = subprocess.run(
        [sys.executable, "-m", "densebench", "cache", *words],
        env={"PATH": "", "DENSEBENCH_CACHE": str(root), "HOME": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done


def test_usage_and_clear(tmp_path):
    Store(tmp_path / "features" / "a", {"spec": "s"}).add({"x": torch.zeros(1000)})
    Store(tmp_path / "scoring" / "b", {}).add({"x": torch.zeros(10)})
    (tmp_path / "file-digests").mkdir()
    found = cache.usage(tmp_path)
    assert [(usage.folder.name, usage.about) for usage in found] == [("a", {"spec": "s"}), ("b", {})]
    assert found[0].bytes > 4000 > found[1].bytes
    assert cache.clear(tmp_path).bytes == sum(usage.bytes for usage in found)
    assert cache.usage(tmp_path) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["features", "file-digests", "scoring"]


def test_what_is_not_ours_stays_and_is_said(tmp_path):
    for name in ("photos/summer", "features/0123456789abcdef01234567"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "about.json").write_text('{"spec": "mine"}')
        (tmp_path / name / "x.safetensors").write_bytes(b"mine")
    Store(tmp_path / "features" / "b", {}).add({"x": torch.zeros(10)})
    done = command(tmp_path, "clear")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    mine = ["features/0123456789abcdef01234567", "photos/summer"]
    assert left == [f"{folder}/{file}" for folder in mine for file in ("about.json", "x.safetensors")]
    assert f"not marked as densebench's: {tmp_path / mine[0]} and 1 more stays" in done.stderr


def test_somebody_elses_cache_tag_is_not_our_mark(tmp_path):
    folder = tmp_path / "other" / "cache"
    folder.mkdir(parents=True)
    (folder / "about.json").write_text("{}")
    (folder / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n")
    assert cache.usage(tmp_path) == [] and cache.clear(tmp_path).unmarked == [folder]
    assert len(list(folder.iterdir())) == 2


def test_what_is_in_use_stays_until_nobody_uses_it(tmp_path, capfd):
    opened = Store(tmp_path / "features" / "a", {})
    opened.add({"x": torch.ones(3)})
    done = command(tmp_path, "clear")
    assert f"in use: {tmp_path / 'features' / 'a'} stays" in done.stderr and "freed 0.0 MiB" in done.stdout
    opened.add({"y": torch.ones(3)})
    assert opened["x"].tolist() == opened["y"].tolist() == [1, 1, 1]
    del opened
    command(tmp_path, "clear")
    assert cache.usage(tmp_path) == []


def test_a_process_that_was_killed_uses_nothing(tmp_path):
    code = f"""
import os, pathlib
from densebench.files.cache import Hold
hold = Hold(pathlib.Path({str(tmp_path / "features" / "a")!r}), {{}})
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(cache.usage(tmp_path)) == 1
    cleared = cache.clear(tmp_path)
    assert cleared.in_use == [] and cache.usage(tmp_path) == []


def test_a_store_whose_folder_vanished_is_made_again(tmp_path):
    import shutil

    opened = Store(tmp_path / "features" / "a", {"spec": "s"})
    opened.add({"x": torch.ones(3)})
    opened.add({"z": torch.ones(3)})
    assert "x" in opened
    shutil.rmtree(opened.folder)
    assert "z" not in opened
    assert opened["x"].tolist() == [1, 1, 1]  # it was open already
    opened.add({"y": torch.ones(3)})
    [usage] = cache.usage(tmp_path)
    assert usage.about == {"spec": "s"} and opened["y"].tolist() == [1, 1, 1]
    assert cache.clear(tmp_path).in_use == [opened.folder]


def test_a_folder_that_is_cleared_while_another_waits_for_it_is_made_anew(tmp_path):
    folder = tmp_path / "scoring" / "a"
    first = Hold(folder, {"of": 1})
    second = Hold(folder, {"of": 2})
    del first
    assert not cache.release(folder)
    del second
    assert cache.release(folder) and not folder.exists()
    third = Hold(folder, {"of": 3})
    assert [usage.about for usage in cache.usage(tmp_path)] == [{"of": 3}]
    del third


ABOUTS = ["[]", "null", "{}", "no JSON", "[" * 100_000, '{"view": 3}', b"\xff", None]


@pytest.mark.parametrize("about", late(ABOUTS, "[]", b"\xff"))
def test_any_about_json_can_be_listed_and_cleared(tmp_path, about):
    Store(tmp_path / "features" / "a", {"spec": "s"}).add({"x": torch.zeros(10)})
    path = tmp_path / "features" / "a" / "about.json"
    path.unlink()
    if about is not None:
        path.write_bytes(about if isinstance(about, bytes) else about.encode())
    listed = command(tmp_path, "ls").stdout.splitlines()
    assert len(listed) == 2 and ("unknown" in listed[0] or about == '{"view": 3}')
    command(tmp_path, "clear")
    assert cache.usage(tmp_path) == []


def test_the_listing_says_what_a_folder_holds(tmp_path):
    Store(tmp_path / "features" / "a", {"spec": "dino", "view": {"size": 448}})
    Store(tmp_path / "features" / "b", {"spec": "mae", "view": {"kind": "whole"}})
    Store(tmp_path / "scoring" / "c", {"protocol": "linear"})
    listed = sorted(line.split("MiB")[1].split() for line in command(tmp_path, "ls").stdout.splitlines()[:3])
    now = ["used", "now"]
    assert listed == [["a", "dino", "448", *now], ["b", "mae", "native", *now], ["c", "work", "in", "progress", *now]]


def test_what_a_folder_says_of_itself_is_json(tmp_path):
    hold = Hold(tmp_path / "scoring" / "a", {"b": 1})
    assert json.loads((tmp_path / "scoring" / "a" / "about.json").read_text()) == {"b": 1}
    del hold


def test_a_mark_that_another_process_replaces_meanwhile_is_not_taken_for_the_old_one(tmp_path, monkeypatch):
    fcntl, mark = pytest.importorskip("fcntl"), tmp_path / "CACHEDIR.TAG"
    mark.write_text("old")

    def late(handle, kind, lock=fcntl.flock):
        mark.unlink()
        mark.write_text("new")
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_exclusively(mark) as is_free:
        assert not is_free
