"""Arguments of another type than a function takes end in one line that names the argument, not in a traceback of a library."""

from __future__ import annotations

import re

import numpy as np
import pytest
from torch import nn

import densebench
from densebench.errors import UserError
from densebench.evals.incontext.protocol import InContext

PATCHES = nn.Conv2d(3, 8, 16, 16)
TEXTS, PATHS, WHOLES = (5, ["a"], b"a", np.zeros(2)), (5, ["a"], b"a"), ("3", 2.5, True, [1])
EVALUATE = {
    **dict.fromkeys(("preset", "name", "layer", "pos_embed", "role"), TEXTS),
    **dict.fromkeys(("data_root", "results"), PATHS),
    **dict.fromkeys(("seed", "limit"), WHOLES),
    **dict.fromkeys(("rerun", "dry_run"), ("no", 1, np.zeros(2))),
    "features": (5, "m"),
}


def refused(name, call):
    with pytest.raises(UserError, match=rf"(?s){re.escape(name)}.*\bgive\b") as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EVALUATE.items() for value in values], ids=repr)
def test_evaluate_names_an_argument_of_another_type(name, value, tmp_path):
    given = {"results": tmp_path / "results", "dry_run": True, name: [value, "b"] if name == "name" else value}
    models = [PATCHES, PATCHES] if name == "name" else PATCHES
    refused(f"{name}=", lambda: densebench.evaluate(models, "incontext", "scenes", **given))


@pytest.mark.parametrize("protocol", [5, ["incontext"], InContext, len], ids=repr)
def test_evaluate_says_what_a_protocol_is(protocol):
    refused("protocol", lambda: densebench.evaluate(PATCHES, protocol, "scenes", dry_run=True))


def test_a_role_that_does_not_exist_is_refused_for_every_spec():
    with pytest.raises(UserError, match="unknown role 'techer': did you mean 'teacher'"):
        densebench.load_backbone("random:test_vit", role="techer")


@pytest.mark.parametrize("name", ["preset", "device", "limit", "ranks", "features"])
def test_a_probe_names_an_argument_of_another_type(name):
    refused(f"{name}=", lambda: densebench.Probe("scenes", "incontext", **{name: [1]}))


@pytest.mark.parametrize("mean", [0.5, "0.5", [0.5], len], ids=repr)
def test_a_probe_takes_three_numbers_as_colour_statistics(mean):
    with pytest.raises(UserError, match="mean .*three"):
        densebench.Probe("scenes", "incontext", mean=mean)


@pytest.mark.parametrize("name", ["dataset", "protocol", "backbone"])
@pytest.mark.parametrize("value", [5, [5], [], len], ids=repr)
def test_a_leaderboard_is_filtered_by_texts(name, value, tmp_path):
    from made_records import write

    write(tmp_path, "a", {(1, None): 10.0})
    with pytest.raises(UserError, match="text|empty"):
        densebench.leaderboard(tmp_path, **{name: value})


@pytest.mark.parametrize("results", [5, [5], [None], len], ids=repr)
def test_a_leaderboard_is_of_paths(results):
    refused("results", lambda: densebench.leaderboard(results))


@pytest.mark.parametrize(("name", "value"), [("preset", 5), ("variant", 5), ("limit", "3"), ("seed", 1.5), ("resume", "no")])
def test_train_names_an_argument_of_another_type(name, value):
    refused(f"{name}=", lambda: densebench.train("cribo", **{"dry_run": True, name: value}))


@pytest.mark.parametrize("neighbours", [3, [3], np.array([3]), np.int64(3), range(3, 4), "3"], ids=repr)
def test_an_option_that_is_a_list_takes_one_number_and_any_sequence(neighbours, tmp_path):
    result = densebench.evaluate(PATCHES, "incontext", "scenes", neighbours=neighbours, dry_run=True, results=tmp_path, limit=4)
    alike = densebench.evaluate(PATCHES, "incontext", "scenes", neighbours=(3,), dry_run=True, results=tmp_path, limit=4)
    assert result.records[0]["protocol"] == alike.records[0]["protocol"]


def test_a_limit_of_numpy_is_written_to_the_record_as_a_number(tmp_path):
    given = {"neighbours": 3, "results": tmp_path, "memory_size": 100}
    result = densebench.evaluate(PATCHES, "incontext", "scenes", limit=np.int64(4), **given)
    assert result.records[0]["dataset"]["limit"] == 4
