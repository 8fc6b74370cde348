"""The protocol `incontext` in several processes that share one memory: in all of them each score is that of one process."""

from __future__ import annotations

import pytest
from processes_as_threads import in_threads
from retrieval_by_loops import DATA, PLAIN, SIDE, backbone, empty_cache

from densebench import options
from densebench.evals.incontext import voting
from densebench.evals.incontext.memory import TrainingPatches
from densebench.evals.incontext.protocol import InContext
from densebench.evaluation.protocol import Run
from densebench.processes import rank

__all__ = ["backbone", "empty_cache"]  # fixtures
SMALL = {"image_size": SIDE, "resample": "bilinear"}
CASES = {
    "softmax": ("hummingbird", {**PLAIN, "fractions": (1, 2, 5), "seeds": 2}),
    "views in a bounded memory": ("neco", {"neighbours": (4,), "memory_size": 120}),
    "distances": ("dip", {"neighbours": (4,)}),
    "equal votes": ("cribo", {"neighbours": (7,), "fractions": (2,)}),
    "pixels, with a choice": ("capi", {**SMALL, "neighbours": (1, 4)}),
}


def scores_in(size, backbone, preset="hummingbird", folder=None, **given):
    """The scores that each of so many processes ends with. folder: of the main process's pictures."""
    evaluator = options.build(InContext, InContext.presets[preset], given).resolve(DATA)

    def run():
        pictures = folder if rank() == 0 else None
        return [s.json() for s in evaluator.run(backbone, DATA, Run(pictures=pictures, progress_key=f"of {size}"))]

    return in_threads(size, run)


@pytest.mark.parametrize("case", CASES)
def test_processes_equal_one(backbone, case, monkeypatch):
    """Twelve processes are more than there are training images: some hold no row of the memory, and label no image."""
    monkeypatch.setattr(voting, "QUERIES", 20)  # batches of two images
    preset, given = CASES[case]
    [expected] = scores_in(1, backbone, preset, **given)
    for size in (2, 12) if case == "softmax" else (3,):
        for found in scores_in(size, backbone, preset, **given):
            assert found == expected


def test_each_process_holds_its_part_of_the_memory(backbone, monkeypatch):
    held, fill = {}, TrainingPatches.fill

    def noted(*arguments):
        memory = fill(*arguments)
        held[rank()] = len(memory.features), len(memory.labels), len(memory.norms), len(memory.view)
        return memory

    monkeypatch.setattr(TrainingPatches, "fill", noted)
    scores_in(3, backbone, **PLAIN)
    rows = [own[0] for own in held.values()]
    assert len(held) == 3 and all(own[:3] == (own[0],) * 3 for own in held.values())
    assert {sum(rows)} == {own[3] for own in held.values()}
    assert max(rows) - min(rows) <= 2 * (SIDE // 8) ** 2, "parts differ by less than two images"


def test_pictures_are_those_of_one_process(backbone, tmp_path):
    for size in (1, 2):
        scores_in(size, backbone, folder=tmp_path / str(size), visualise=2, **PLAIN)
    pictures = [{path.name: path.read_bytes() for path in (tmp_path / size).iterdir()} for size in "12"]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 4


def test_work_that_one_process_has_saved_is_not_done_again(backbone, monkeypatch):
    monkeypatch.setattr(voting, "KEEP_EVERY", -1.0)
    monkeypatch.setattr(voting, "QUERIES", 1)
    given, key = options.build(InContext, InContext.presets["hummingbird"], PLAIN).resolve(DATA), Run(progress_key="killed")
    expected, asked = [score.json() for score in given.run(backbone, DATA, key)], []
    monkeypatch.setattr(voting.Voter, "votes", lambda *asked_for: asked.append(asked_for))
    found = in_threads(2, lambda: [score.json() for score in given.run(backbone, DATA, key)])
    assert found == [expected] * 2 and not asked


def test_an_index_that_is_not_divided_is_asked_by_the_main_process(backbone):
    given = {**PLAIN, "engine": "faiss"}
    [expected] = scores_in(1, backbone, **given)
    assert scores_in(2, backbone, **given) == [expected, []]
