"""May the numbers of two records be compared, and why not?

They may stand in one table where the records are of one group: the protocol with its version and all settings, the data set with
its split and content, and the user's own code of either (`record.group_of`). A limit, a rehearsal and a run that failed keep a
record out of every table. What else differs (code, packages, machines) should decide no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densebench.console import one_line
from densebench.results.provenance import is_rehearsal
from densebench.results.showing import words

Record = dict[str, Any]
SHOWN = 3  # settings that a reason names


def reasons(a: Record, b: Record) -> list[str]:
    """Return why the numbers of two records, A and B, may not be compared, in words; [] where they may."""
    found = []
    for letter, record in (("A", a), ("B", b)):
        if record["status"] == "failed":
            found.append(f"the run of {letter} failed")
        if is_rehearsal(record):
            found.append(f"{letter} was made in a rehearsal of a table (--set)")
    limits = [each["dataset"]["limit"] for each in (a, b)]
    if limits[0] != limits[1]:
        cut = [f"{letter} is cut to {limit:,} images" for letter, limit in zip("AB", limits, strict=True) if limit is not None]
        found.append(f"{' and '.join(cut)} (--limit)")
    return [*_other_group(a, b), *found]


def _other_group(first: Record, second: Record) -> list[str]:
    """Return why the records are of different groups."""
    if first["group"] == second["group"]:
        return []
    (a, b), (data, others) = [(first[kind], second[kind]) for kind in ("protocol", "dataset")]
    found = _other_data(data, others)
    splits = () if data["name"] == others["name"] else ("train_split", "eval_split")  # these follow from the data set
    settings = [each for each in differing(a["settings"], b["settings"]) if each[0] not in splits]
    if a["name"] != b["name"]:
        found.append(f"the protocols are {one_line(a['name'])} and {one_line(b['name'])}")
    elif a["version"] != b["version"]:
        found.append(f"the versions of {one_line(a['name'])} are {a['version']} and {b['version']}")
    elif settings:
        each = [f"{one_line(name)} is {short(of_a)} in A and {short(of_b)} in B" for name, of_a, of_b in settings[:SHOWN]]
        more = f", and {len(settings) - SHOWN} more settings differ" if len(settings) > SHOWN else ""
        found.append(f"{', '.join(each)}{more}")
    if a["name"] == b["name"] and a["code"] != b["code"]:
        found.append("the protocol's own code differs")
    return found or [f"their groups are {first['group']} and {second['group']}"]


def _other_data(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return in what the data of two records differ, of what makes a group."""
    if a["name"] != b["name"]:
        return [f"the data sets are {one_line(a['name'])} and {one_line(b['name'])}"]
    if a["split"] != b["split"]:
        return [f"the splits of {one_line(a['name'])} are {one_line(a['split'])} and {one_line(b['split'])}"]
    corruptions = [short(each.get("corruption", "nothing")) for each in (a, b)]
    if corruptions[0] != corruptions[1]:
        return [f"the images of A are corrupted by {corruptions[0]}, those of B by {corruptions[1]}"]
    found = []
    if a["digest"] != b["digest"]:
        counts = "" if a["images"] == b["images"] else f", {a['images']:,} in A and {b['images']:,} in B"
        found.append(f"the images or labels of {one_line(a['name'])} {one_line(a['split'])} differ{counts}")
    return [*found, *(["the data set's own code differs"] if a["code"] != b["code"] else [])]


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the names whose values differ, those within dictionaries by dotted names; what is missing is None."""
    found = []
    for name in dict.fromkeys([*first, *second]):
        a, b = first.get(name), second.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [(f"{name}.{inner}", *values) for inner, *values in differing(a, b)]
        elif a != b or isinstance(a, bool) != isinstance(b, bool):
            found.append((name, a, b))
    return found


def short(value: Any) -> str:
    """Return a value as a text; of a long digest the beginning."""
    shown = one_line(words(value))
    is_digest = len(shown) >= 16 and all(letter in "0123456789abcdef" for letter in shown)
    return shown[:12] if is_digest else shown
