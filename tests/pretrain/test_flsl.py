"""FLSL's objective on a tiny network: the three terms against loops, what reaches whom, the second stage, the encoder."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from densebench.pretrain.flsl.mean_shift import grid_queries, sharpened
from densebench.pretrain.flsl.method import FLSL
from drawn_views import drawn_views
from safetensors.torch import load_file

from densebench import catalog
from densebench.backbones.loading import load_backbone
from densebench.backbones.position import resize_position_embedding
from densebench.errors import UserError
from densebench.files.states import saved_states
from densebench.training.augmentation import AugmentParams
from densebench.training.networks import Network, create_encoder, sincos_positions
from densebench.training.objective import StepContext, Views
from densebench.training.run import build, train

SIZE, LOCAL, IMAGES, TEMP = 64, 32, 3, 0.06
SMALL = {"arch": "test_vit", "image_size": SIZE, "local_size": LOCAL, "local_crops": 2, "window": 2, "local_window": 1,
         "out_dim": 12, "hidden_dim": 16, "bottleneck_dim": 8, "batch_size": IMAGES, "self_attention": 0.7,
         "cross_attention": 1.3}  # fmt: skip
CONTEXT = StepContext(step=5, epoch=0, epochs=1.0, scheduled={"teacher_temp": TEMP, "previous_share": 0.3}, seed=2, logging=True)


def build_all(**options):
    torch.manual_seed(0)
    chosen = FLSL(**{**SMALL, **options})
    student, teacher = (Network(dataclasses.replace(chosen, drop_path=0.0).encoder(), chosen.head(64)) for _ in "st")
    objective = chosen.objective(student.encoder)
    if chosen.centre:
        objective.centre.value.copy_(0.1 * torch.randn(12))
    return chosen, objective, student, teacher


def seen(chosen, images=IMAGES, seed=0):
    return drawn_views(chosen, images, seed)


def restated(chosen, student, teacher, views, guide=None):
    """Equation 13 in loops over crops, images and queries; `guide(crop, image, query)` is the first stage's mask."""
    told = teacher.encode(views.pixels[0]).patches.detach()
    distances, ours, theirs = [], [], []
    for crop in range(1, 2 + chosen.local_crops):
        window = chosen.window if crop == 1 else chosen.local_window
        side = (SIZE if crop == 1 else LOCAL) // 16
        noise = CONTEXT.noise(len(views), 2 + (side // window) ** 2, device=torch.device("cpu"), name=f"queries {crop}")
        places = grid_queries(noise, (side, side), window, chosen.queries)
        tokens = student.encode(views.pixels[crop]).patches
        for image in range(len(views)):
            for place in places[image].tolist():
                z = tokens[image, place]
                near = torch.softmax(chosen.self_attention / math.sqrt(384) * (tokens[image] @ z), dim=0)
                mode = sum(weight * token for weight, token in zip(near, tokens[image], strict=True))
                far = torch.softmax(chosen.cross_attention / math.sqrt(384) * (told[image] @ z.detach()), dim=0)
                if guide is not None:
                    far = 0.7 * far + 0.3 * guide(crop, image, place)
                positive = sum(weight * token for weight, token in zip(far, told[image], strict=True))
                distances.append((F.normalize(z, dim=0) - F.normalize(mode, dim=0)).square().sum())
                ours.append(student.project(mode[None])[0])
                theirs.append(teacher.project(positive[None])[0].detach())
    p = torch.softmax(torch.stack(ours) @ student.head.prototypes("mode").T / chosen.student_temp, dim=1)
    logits = torch.stack(theirs) @ teacher.head.prototypes("mode").detach().T
    return torch.stack(distances).mean(), p, logits


def volume_of(p):
    mean = p.mean(dim=0)
    return sum(share * share.log() for share in mean) + math.log(len(mean))


@pytest.mark.parametrize("given", [{}, {"queries": "random"}, {"local_crops": 0}, {"window": 3}, {"student_temp": 0.3}])
def test_the_three_terms_and_their_gradients(given):
    chosen, objective, student, teacher = build_all(**given)
    views = seen(chosen)
    loss = objective(student, teacher, views, CONTEXT)
    distance, p, logits = restated(chosen, student, teacher, views)
    inter = -(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    for name, value in (("intra", distance), ("inter", inter), ("volume", volume_of(p))):
        torch.testing.assert_close(
            loss.terms[name], value.detach(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    expected = 0.03 * distance + inter + 5 * volume_of(p)
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-5)
    loss.total.backward()
    found = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad()
    expected.backward()
    scale = max(float(g.abs().max()) for g in found)
    for one, parameter in zip(found, [q for q in student.parameters() if q.grad is not None], strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


def test_a_centre_is_subtracted_and_moves():
    chosen, objective, student, teacher = build_all(centre=True)
    views = seen(chosen)
    centre = objective.centre.value.clone()
    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views)
    inter = -(torch.softmax((logits - centre) / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(loss.terms["inter"], inter.detach(), rtol=1e-4, atol=1e-5)
    objective.commit(teacher)
    torch.testing.assert_close(objective.centre.value, 0.9 * centre + 0.1 * logits.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_without_one_nothing_is_subtracted_and_nothing_moves():
    chosen, objective, student, teacher = build_all()
    objective(student, teacher, seen(chosen), CONTEXT)
    objective.commit(teacher)
    assert not objective.centre.value.any()


def test_sinkhorn_targets_use_all_centroids_alike():
    chosen, objective, student, teacher = build_all(sinkhorn=3)
    views = seen(chosen)
    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views)
    plan = torch.softmax(logits.double() / TEMP, dim=1)
    for _ in range(3):
        plan = plan / plan.mean(dim=0) / 12
        plan = plan / plan.sum(dim=1, keepdim=True)
    torch.testing.assert_close(loss.terms["inter"], -(plan.float() * p.log()).sum(dim=1).mean().detach(), rtol=1e-3, atol=1e-4)


def test_no_gradient_reaches_the_teacher():
    chosen, objective, student, teacher = build_all()
    objective(student, teacher.requires_grad_(True), seen(chosen), CONTEXT).total.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_the_target_is_a_constant_for_the_query():
    """The student's queries choose where the teacher is asked, but no gradient flows back through that choice."""
    chosen, objective, student, teacher = build_all(intra_weight=0.0, volume_weight=0.0)
    views = seen(chosen)
    objective(student, teacher, views, CONTEXT).total.backward()
    found = student.encoder.model.norm.weight.grad.clone()
    student.zero_grad()
    _, p, logits = restated(chosen, student, teacher, views)
    (-(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()).backward()
    torch.testing.assert_close(found, student.encoder.model.norm.weight.grad, rtol=1e-3, atol=1e-6)


def test_images_do_not_look_at_each_other():
    """But for the volume term, a batch is the mean over its images."""
    chosen, objective, student, teacher = build_all(volume_weight=0.0)
    views = seen(chosen)
    whole = objective(student, teacher, views, CONTEXT)
    parts = []
    for image in range(IMAGES):
        index = slice(image, image + 1)
        some = Views(
            tuple(pixels[index] for pixels in views.pixels), tuple(AugmentParams(draws.table[index]) for draws in views.draws),
            views.numbers[index],
        )  # fmt: skip
        parts.append(objective(student, teacher, some, dataclasses.replace(CONTEXT, part=image, parts=IMAGES)).total.detach())
    torch.testing.assert_close(whole.total.detach(), torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


def test_crops_of_the_student_lie_in_the_teachers():
    chosen = FLSL(**SMALL)
    views = seen(chosen, images=40)
    outer = views.draws[0].boxes
    for draws in views.draws[1:]:
        inner = draws.boxes
        assert (inner[:, :2] >= outer[:, :2]).all()
        assert (inner[:, :2] + inner[:, 2:] <= outer[:, :2] + outer[:, 2:]).all()
        assert not draws.flips.any()


def test_blur_and_solarisation_are_the_published_mixture():
    """Half of the views: blur with probability 0.5; the others: 0.1, and solarisation 0.2."""
    [recipe, *_] = FLSL().views()
    tables = np.stack([recipe.draw(100, 100, np.random.default_rng(number)) for number in range(4000)])
    blurred, solarised = tables[:, 15] > 0, tables[:, 16] > 0
    assert blurred.mean() == pytest.approx(0.3, abs=0.03)
    assert solarised.mean() == pytest.approx(0.1, abs=0.02)
    assert (blurred & solarised).mean() == pytest.approx(0.01, abs=0.006)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    small = {name: value for name, value in SMALL.items() if name != "batch_size"}
    given = {**small, "batch_size": 4, "limit": 8, "device": "cpu", "log_every": 1, "drop_path": 0.0, "warmup_epochs": 0}
    run = train("flsl", data=["scenes"], output=tmp_path_factory.mktemp("flsl") / "first", steps=2, **given)
    return given, run


def test_the_encoder_has_no_class_token_and_its_positions_stay(first_stage):
    run = first_stage[1]
    saved = load_file(run / "backbone.safetensors")
    assert "cls_token" not in saved
    assert torch.equal(saved["pos_embed"], sincos_positions(64, (4, 4)))
    state = load_file(saved_states(run)[-1])
    assert torch.equal(state["student/encoder.model.pos_embed"], saved["pos_embed"])
    backbone = load_backbone(f"ckpt:{run}")
    assert backbone(torch.zeros(2, 3, 64, 48)).shape == (2, 64, 4, 3)


def test_the_saved_backbone_gives_the_teachers_tokens(first_stage):
    run = first_stage[1]
    teacher = FLSL(**SMALL).encoder()
    prefix = "teacher/encoder."
    state = load_file(saved_states(run)[-1])
    teacher.load_state_dict({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = load_backbone(f"ckpt:{run}")(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, teacher.eval()(pixels).patches, rtol=1e-4, atol=1e-4)


def test_the_second_stage_follows_the_first_ones_attention(first_stage):
    chosen, objective, student, teacher = build_all(previous=f"ckpt:{first_stage[1]}", previous_attention=3.0)
    views = seen(chosen)
    assert len(views.pixels) == 8
    previous = FLSL(**SMALL).encoder()
    previous.model.load_state_dict(load_file(first_stage[1] / "backbone.safetensors"))
    previous.eval()

    def features(pixels):
        patches = previous.model.patch_embed(pixels).flatten(1, -2)
        side = pixels.shape[2] // 16
        x = patches + resize_position_embedding(sincos_positions(64, (4, 4)), 0, (side, side), "offset")
        for block in previous.model.blocks[:-1]:
            x = block(x)
        return x

    told, seen_by = features(views.pixels[4]), [features(views.pixels[4 + crop]) for crop in range(4)]

    def guide(crop, image, place):
        weights = torch.softmax(3.0 / math.sqrt(384) * (told[image] @ seen_by[crop][image, place]), dim=0)
        return sharpened(weights[None, None], 1e4)[0, 0].detach()

    loss = objective(student, teacher, views, CONTEXT)
    _, p, logits = restated(chosen, student, teacher, views, guide)
    inter = -(torch.softmax(logits / TEMP, dim=1) * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(loss.terms["inter"], inter.detach(), rtol=1e-3, atol=1e-4)
    assert not any("previous" in name for name in objective.state_dict())


def test_plain_views_repeat_boxes_without_colours():
    views = seen(FLSL(**SMALL, previous="ckpt:nowhere"), images=20)
    for one, plain in zip(views.draws[:4], views.draws[4:], strict=True):
        assert torch.equal(one.table[:, :5], plain.table[:, :5])
        assert not plain.table[:, 5].any()
        assert not plain.table[:, 14:].any()


def test_a_second_stage_runs_and_its_share_falls(first_stage, tmp_path):
    from densebench.training.logs import read_log

    given, first = first_stage
    more = {"previous": f"ckpt:{first}", "previous_share": 0.2}
    run = train("flsl", data=["scenes"], output=tmp_path / "second", steps=4, **given, **more)
    shares = [float(row["previous_share"]) for row in read_log(run / "log.csv")]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert 0.2 < shares[-1] < 0.4


def test_going_on_from_a_first_stage_keeps_its_positions_fixed(first_stage, tmp_path):
    given, first = first_stage
    more = {name: value for name, value in given.items() if name != "arch"}
    run = train("flsl", data=["scenes"], output=tmp_path / "second", steps=2, init=f"ckpt:{first}", **{**more, "lr": 0.1})
    assert torch.equal(load_file(run / "backbone.safetensors")["pos_embed"], sincos_positions(64, (4, 4)))
    facts = load_backbone(f"ckpt:{run}")
    assert facts(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 4, 4)


def test_methods_that_need_a_class_token_refuse_a_backbone_without(first_stage, tmp_path):
    with pytest.raises(UserError, match="is no plain ViT with a class token"):
        train("dino", data=["scenes"], limit=8, batch_size=4, init=f"ckpt:{first_stage[1]}", output=tmp_path / "run", steps=1)


def test_equal_tokens_are_their_own_modes_and_one_centroid_costs_ln_k():
    chosen, objective, student, teacher = build_all()
    blank = Views(tuple(torch.zeros_like(pixels) for pixels in seen(chosen).pixels), seen(chosen).draws, torch.arange(IMAGES))
    for network in (student, teacher):
        network.encoder.model.pos_embed.zero_()
        network.head.last_layer["mode"].weight_v.data.copy_(torch.eye(12, 8))
    student.head.mlp[-1].weight.data.zero_()
    student.head.mlp[-1].bias.data.copy_(F.one_hot(torch.tensor(3), 8).float())
    loss = objective(student, teacher, blank, dataclasses.replace(CONTEXT))
    assert loss.terms["intra"] < 1e-5
    expected = torch.softmax(torch.eye(12)[3] / 0.1, dim=0)
    torch.testing.assert_close(loss.terms["volume"], (expected * expected.log()).sum() + math.log(12))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 5}, "a window of 5 x 5 patches does not fit"),
        ({"previous": "ckpt:nowhere"}, "nowhere is not a checkpoint"),
        ({"previous_share": 2}, "--previous-share 2: it is a share"),
        ({"previous_share": 0.5}, "are of a second stage; give --previous"),
        ({"centre": True, "sinkhorn": 2}, "--centre and --sinkhorn 2 both set"),
        ({"previous": "timm:resnet18"}, "--previous timm:resnet18 is no plain ViT"),
        ({"intra_weight": 0, "inter_weight": 0, "volume_weight": 0}, "nothing is left to learn from"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    with pytest.raises(UserError, match=message):
        chosen = build(catalog.load("methods", "flsl"), "flsl", "tiny", "official", None, {**SMALL, **given})
        chosen.objective(chosen.encoder())


def test_weights_of_zero_leave_terms_out_of_the_gradient():
    chosen, objective, student, teacher = build_all(inter_weight=0.0, volume_weight=0.0)
    objective(student, teacher, seen(chosen), CONTEXT).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in student.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.encoder.parameters())


def test_a_vit_with_a_class_token_can_be_trained_on():
    chosen = FLSL(**SMALL)
    student = Network(create_encoder("test_vit", SIZE, 0.0), chosen.head(64))
    loss = chosen.objective(student.encoder)(student, copy.deepcopy(student), seen(chosen), CONTEXT)
    assert loss.total.isfinite()
