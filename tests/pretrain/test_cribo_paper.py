"""CrIBo's `--variant paper`: how its three losses weigh, and cycles over the whole batch."""

from __future__ import annotations

import pytest
import torch
from cribo_reference import Naive, build, close, context, remembered, views
from PIL import Image

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.training.objective import StepContext

PAPER = {"neighbour_norm": "paper", "cycle_scope": "batch"}


@pytest.mark.parametrize("norm", ["official", "paper"])
def test_the_loss_across_images_weighs_as_much_as_that_between_views(norm):
    """Where every object's neighbour is the object itself, equation 8 is equation 6."""
    objective, student, teacher = build(cycle=False, neighbour_norm=norm)
    objective(student, teacher, views(5), context())
    objective.commit(teacher)
    objective.bank.numbers[:5] += 100  # the same objects, of other images
    loss = objective(student, teacher, views(5), context())
    assert loss.terms["object"] > 0.1
    close(loss.terms["neighbour"], loss.terms["object"])


def test_each_direction_is_divided_by_its_own_number_of_matches(monkeypatch):
    """By hand: one match in the first direction, two in the second, (CE1 / 1 + CE2 / 2) / 2."""
    objective, student, teacher = remembered(neighbour_norm="paper", cycle=False)
    match, batch = objective.match, views(5)
    naive = Naive(objective, student, teacher, batch, context())
    a, b, c = list(naive.objects)[:3]

    def few(*arguments):
        places, masks = match(*arguments)
        chosen = torch.zeros_like(masks)
        for view, key in ((0, a), (1, b), (1, c)):
            chosen[view][key] = True
        return places, chosen

    monkeypatch.setattr(objective, "match", few)
    one, two = naive.matches()
    first = naive.ce(one[a], naive.objects[a][1][1])
    second = naive.ce(two[b], naive.objects[b][1][0]) + naive.ce(two[c], naive.objects[c][1][0])
    close(objective(student, teacher, batch, context()).terms["neighbour"], (first / 1 + second / 2) / 2)


def test_a_cycle_over_the_batch_cannot_close_in_a_part_of_it():
    with pytest.raises(UserError, match=r"--cycle-scope batch with --accumulate 2: .* --accumulate 1.*--cycle-scope group"):
        build(cycle_scope="batch", accumulate=2)
    build(cycle_scope="batch", accumulate=2, cycle=False)
    build(cycle_scope="group", accumulate=2)


def test_pictures_of_one_of_several_processes_wait_for_nobody(monkeypatch):
    """The main process draws alone: what it draws is a batch of its own."""
    objective, _, teacher = remembered(**PAPER)
    monkeypatch.setattr("densebench.processes.world_size", lambda: 2)  # and no process answers
    batch = views(5)
    alone = StepContext(step=7, epoch=3, epochs=10.0, scheduled={"teacher_temp": 0.05})
    assert set(objective.pictures(teacher, batch, alone, images=Black())) == {"clusters", "matches"}


class Black(Images):
    def __len__(self):
        return 300

    def title(self, index):
        return str(index)

    def open(self, index):
        return Image.new("RGB", (400, 400))
