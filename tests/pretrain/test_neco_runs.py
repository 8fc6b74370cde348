"""NeCo's ablations and runs: masks, views, rates, sizes, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from neco_reference import CONTEXT, SIZE, SMALL, build_all, seen

from densebench import catalog
from densebench.errors import UserError
from densebench.files.states import saved_states
from densebench.pretrain.neco.alignment import Pair
from densebench.pretrain.neco.method import NeCo
from densebench.training.networks import Network, create_encoder, create_patch_encoder
from densebench.training.objective import Views
from densebench.training.run import build, train


def test_equal_networks_that_see_the_same_agree():
    chosen, objective, student, _ = build_all(steepness=1e7, teacher_steepness=1e7, local_crops=0, global_scale=(1.0, 1.0))
    views = seen(chosen)
    same = Views((views.pixels[0], views.pixels[0]), (views.draws[0], views.draws[0]), views.numbers)
    loss = objective(student, copy.deepcopy(student), same, CONTEXT)
    assert loss.total < 0.05
    assert loss.figures["same_nearest"] == 1
    apart = objective(student, copy.deepcopy(student), views, CONTEXT)
    assert apart.total > 1


def test_foreground_and_background_share_no_patch_and_both_matter():
    losses = {}
    for which in ("both", "foreground", "background"):
        chosen, objective, student, teacher = build_all(patches=which, region_size=4)
        losses[which] = float(objective(student, teacher, seen(chosen), CONTEXT).total.detach())
        if which != "both":
            wanted = objective.wanted(teacher.encode(torch.cat(seen(chosen).pixels[:2]), qkv=True))
            losses[which + " mask"] = wanted
    assert torch.equal(losses["foreground mask"], ~losses["background mask"])
    assert len({round(losses[which], 5) for which in ("both", "foreground", "background")}) == 3


def test_views_that_share_nothing_count_for_nothing():
    chosen, objective, student, teacher = build_all(local_crops=0)
    views = seen(chosen, images=2)
    whole = objective(student, teacher, views, CONTEXT).total
    for draws, left in zip(views.draws, (0.0, 60.0), strict=True):
        draws.table[1, :4] = torch.tensor([0.0, left, 40.0, 40.0])
    loss = objective(student, teacher, views, CONTEXT).total
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
    for draws, left in zip(views.draws, (0.0, 60.0), strict=True):
        draws.table[:, :4] = torch.tensor([0.0, left, 40.0, 40.0])
    assert objective(student, teacher, views, CONTEXT).total == 0
    assert whole > 0


def test_without_a_teacher_the_last_student_teaches(tmp_path):
    from safetensors.torch import load_file

    small = {**SMALL, "out": 0}
    small.pop("out")
    run = train(
        "neco", data=["scenes"], limit=8, output=tmp_path / "run", steps=3, device="cpu", teacher=False, **{**small, "lr": 0.01}
    )
    state = load_file(saved_states(run)[-1])
    assert all(
        torch.equal(value, state[name.replace("student/", "teacher/")]) for name, value in state.items() if name[:8] == "student/"
    )


def test_learning_rates_are_those_of_the_paper_whatever_the_batch(tmp_path):
    run = train("neco", data=["scenes"], limit=8, output=tmp_path / "run", steps=2, device="cpu", log_every=1,
                   **{**SMALL, "lr": 1e-5, "head_lr": 1e-4})  # fmt: skip
    from densebench.files.logs import read_log

    rows = read_log(run / "log.csv")
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-5, 5e-6])
    assert [float(row["head_lr"]) for row in rows] == pytest.approx([1e-4, 5e-5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nearest": 8}, "--nearest 8: there are 7 references"),
        ({"attention_mass": 1.5}, "--attention-mass 1.5"),
        ({"references": "queue", "reference_images": "intra"}, "does not go with --references queue; use --references batch"),
        ({"local_scale": (0.01, 0.2)}, "cannot share more than 0.01"),
        ({"reference_count": 1}, "--reference-count 1: it must be at least 2"),
        ({"references": "fraction", "reference_fraction": 5}, "--reference-fraction 5: it is a share"),
        ({"references": "fraction", "reference_fraction": 0.1, "nearest": 7}, "--nearest 7: there are 6 references"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    with pytest.raises(UserError, match=message):
        chosen = build(catalog.load("methods", "neco"), "neco", "tiny", "official", None, {**SMALL, **given})
        chosen.objective(create_encoder("test_vit", SIZE, 0.0))


def test_an_image_alone_gets_a_notice(capsys):
    _, objective, student, teacher = build_all(group_size=1)
    assert "an image alone in its batch or group" in capsys.readouterr().err
    assert objective(student, teacher, seen(objective.options), CONTEXT).total.isfinite()


def test_attention_masks_need_a_class_token_and_the_rest_does_not():
    chosen = NeCo(**{**SMALL, "patches": "foreground"})
    encoder = create_patch_encoder("test_vit", SIZE, 0.0)
    with pytest.raises(UserError, match="has no class token"):
        chosen.objective(encoder)
    chosen = NeCo(**SMALL)
    student = Network(encoder, chosen.head(64))
    loss = chosen.objective(encoder)(student, copy.deepcopy(student).requires_grad_(False), seen(chosen), CONTEXT)
    assert 0 < float(loss.total.detach()) < 10 * math.log(7)


def test_sizes_that_were_not_asked_for_fit_the_patch():
    kind = catalog.load("methods", "neco")
    assert build(kind, "neco", "coco", "official", None, {}).local_size == 98
    other = build(kind, "neco", "coco", "official", None, {"arch": "vit_small_patch16_224"})
    assert (other.local_size, other.image_size) == (96, 224)
    assert build(kind, "neco", "coco", "official", None, {"arch": "vit_small_patch16_224", "local_size": 98}).local_size == 98
    assert (
        build(catalog.load("methods", "dino"), "dino", "coco", "official", "timm:vit_small_patch14_dinov2", {}).local_size == 98
    )


@pytest.mark.slow
def test_patches_of_14_with_registers_train(tmp_path):
    run = train(
        "neco", data=["scenes"], limit=2, output=tmp_path / "run", preset="coco", steps=1, batch_size=2, image_size=56,
        local_size=28, local_crops=1, hidden_dim=16, bottleneck_dim=8, device="cpu", queue_size=32,
    )  # fmt: skip
    from densebench.backbones.loading import load_backbone

    assert load_backbone(f"ckpt:{run}")(torch.zeros(1, 3, 56, 56)).shape == (1, 384, 4, 4)


def test_wanted_patches_are_those_of_the_global_view_that_teaches():
    _, objective, _, _ = build_all(patches="foreground", region_size=2)
    whole, corner = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    wanted = torch.zeros(2, 1, 16, dtype=torch.bool)
    wanted[0].view(4, 4)[:2, :2] = True  # of view 0: a quarter of the shared part there, nothing of it in view 1
    pair = Pair(0, 1, (whole, corner), torch.ones(1, dtype=torch.bool))
    assert objective.counted(pair, wanted).tolist() == [[True, False, False, False]]
