"""Limits of the cache, and which of its folders `cache clear` removes."""

from __future__ import annotations

import os
import time

import command_line
import pytest
import torch

from densebench.errors import UserError
from densebench.files import cache
from densebench.files.cache import Hold
from densebench.files.store import Store, stored_keys


def fill(root, name, bytes_=4000, used=0.0, kind="features", spec="s", users=()):
    """A folder with a tensor of so many bytes, last used at a time, by protocols and data sets."""
    folder = root / kind / name
    Store(folder, {"spec": spec, "view": {"size": 448}}).add({"x": torch.zeros(bytes_ // 4)})
    hold = Hold(folder, {})
    for protocol, dataset in users:
        hold.note({"protocol": protocol, "dataset": dataset})
    del hold
    os.utime(folder / "CACHEDIR.TAG", (used, used))


def names(root):
    return sorted(used.folder.name for used in cache.usage(root))


@pytest.fixture
def three(tmp_path):
    for number, name in enumerate("bca"):
        fill(tmp_path, name, used=1000.0 + number)
    fill(tmp_path, "work", kind="scoring", used=0.0)
    return tmp_path


def total(root):
    return sum(used.bytes for used in cache.usage(root))


def test_room_is_made_by_the_least_recently_used(three):
    cache.make_room(three, 3000, total(three))
    assert names(three) == ["a", "c", "work"]
    cache.make_room(three, 5000, total(three))
    assert names(three) == ["work"]


def test_nothing_is_removed_while_there_is_room(three):
    cache.make_room(three, 0, total(three))
    assert names(three) == ["a", "b", "c", "work"]


def test_what_is_in_use_makes_no_room(three):
    hold = Hold(three / "features" / "b", {})
    with pytest.raises(UserError, match=r"20000 bytes|0\.02 MB more do not fit the cache limit of .*raise --cache-limit"):
        cache.make_room(three, 20_000, 20_000)
    assert names(three) == ["b", "work"]
    del hold


def test_using_a_folder_makes_it_recent(three):
    before = time.time() - 5
    del Store(three / "features" / "b", {})._hold
    [used] = [used.used for used in cache.usage(three) if used.folder.name == "b"]
    assert used > before


@pytest.mark.parametrize(
    ("given", "text", "limit"), [(None, "", None), (2, "", 2 * 10**9), (None, "0.5", 5 * 10**8), (1, "9", 10**9)]
)
def test_the_option_goes_before_the_environment(monkeypatch, given, text, limit):
    monkeypatch.setenv("DENSEBENCH_CACHE_LIMIT", text)
    assert cache.limit_of(given) == limit


@pytest.mark.parametrize(("given", "text"), [(0.0, ""), (None, "much"), (None, "-1"), (None, "nan"), (None, "inf")])
def test_other_limits_are_refused(monkeypatch, given, text):
    monkeypatch.setenv("DENSEBENCH_CACHE_LIMIT", text)
    with pytest.raises(UserError, match="it takes a number of GB above 0"):
        cache.limit_of(given)


def test_keys_can_be_listed_without_opening_the_store(three):
    before = (three / "features" / "a" / "CACHEDIR.TAG").stat().st_mtime
    assert stored_keys(three / "features" / "a") == {"x"} and stored_keys(three / "features" / "none") == set()
    assert (three / "features" / "a" / "CACHEDIR.TAG").stat().st_mtime == before and not (three / "features" / "none").exists()


@pytest.fixture
def filled(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    root, day = tmp_path / "cache", 86_400
    fill(root, "both", used=time.time(), users=[("incontext", "voc"), ("kmeans", "voc")])
    fill(root, "mine", 8000, used=time.time() - 3 * day, users=[("kmeans", "voc")], spec="dino")
    fill(root, "other", 2000, used=time.time() - 40 * day, users=[("kmeans", "camvid"), ("kmeans", "voc")])
    fill(root, "nobody", 1000, used=time.time() - 50 * day)
    return root


def clear(root, *words):
    done = command_line.call("cache", "clear", *words, folder=root.parent)
    assert done.status == 0, done.err
    return done


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--protocol", "kmeans"], ["both", "nobody"]),
        (["--protocol", "incontext"], ["both", "mine", "nobody", "other"]),
        (["--dataset", "voc"], ["nobody", "other"]),
        (["--backbone", "dino"], ["both", "nobody", "other"]),
        (["--older-than", "30d"], ["both", "mine"]),
        (["--older-than", "71h"], ["both"]),
        (["--older-than", "30d", "--protocol", "kmeans"], ["both", "mine", "nobody"]),
        (["--older-than", "8w"], ["both", "mine", "nobody", "other"]),
        ([], []),
    ],
)
def test_filters_hold_together(filled, words, left):
    listed = clear(filled, *words, "--dry-run")
    assert len(names(filled)) == 4
    gone = sorted({"both", "mine", "nobody", "other"} - set(left))
    assert sorted(line.split("MiB")[1].split()[0] for line in listed.out.splitlines()[:-1]) == gone
    assert clear(filled, *words).out.startswith("freed ") and names(filled) == left


def test_what_is_shared_says_who_else_uses_it(filled):
    assert "also used by kmeans" in clear(filled, "--protocol", "incontext").err


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1y", "1e9d", ""])
def test_a_time_without_a_unit_is_refused(filled, text):
    done = command_line.call("cache", "clear", f"--older-than={text}", folder=filled.parent)
    assert done.status == 2 and "such as 30d, 12h, 2w or 90m" in done.err and len(names(filled)) == 4


def test_the_listing_is_sorted_by_size_or_by_age(filled):
    def order(*words):
        out = command_line.call("cache", "ls", *words, folder=filled.parent).out
        return [line.split("MiB")[1].split()[0] for line in out.splitlines()[:-1]]

    assert order() == order("--sort", "size") == ["mine", "both", "other", "nobody"]
    assert order("--sort", "age") == ["nobody", "other", "mine", "both"]
    assert command_line.call("cache", "ls", "--sort", "name", folder=filled.parent).status == 2


def test_the_listing_says_when_and_by_what_a_folder_was_used(filled):
    lines = command_line.call("cache", "ls", folder=filled.parent).out.splitlines()
    assert lines[0].split()[-3:] == ["3d", "ago", "kmeans"]
    assert any(line.endswith("incontext,kmeans") for line in lines)
