"""The caller's module stays as it is, whatever is done with the backbone that is made of it."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from recognised_models import KINDS, Convolution
from torch import nn

from densebench.backbones.recognising import adapt


class Trained(nn.Module):
    """With batch statistics, dropout, a frozen part, a plain attribute and a non-leaf tensor: all that a copy could disturb."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 1)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.first.requires_grad_(False)
        self.doubled = 2 * self.second.weight
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.second(self.drop(self.norm(self.first(images))))


@pytest.fixture
def model():
    torch.manual_seed(3)
    made = Trained()
    made(torch.randn(4, 3, 16, 16)).square().mean().backward()
    made.drop.eval()
    return made


def state(model):
    """Everything of a module that adapting it could change."""
    tensors = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    places = {name: (tensor.data_ptr(), tensor.dtype, tensor.device) for name, tensor in model.named_parameters()}
    grads = {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in model.named_parameters()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: part.training for name, part in model.named_modules()}
    hooks = {name: (len(part._forward_hooks), len(part._forward_pre_hooks)) for name, part in model.named_modules()}
    return {"tensors": tensors, "grads": grads}, {"places": places, "flags": flags, "modes": modes, "hooks": hooks}


def test_weights_grads_flags_modes_buffers_and_hooks_stay(model):
    calls = model.calls
    tensors, others = state(model)
    backbone = adapt(model)
    backbone(torch.randn(2, 3, 16, 24))
    backbone.double()
    after, others_after = state(model)
    assert others_after == others and model.calls == calls
    assert not model.doubled.is_leaf
    for kind, values in tensors.items():
        for name, tensor in values.items():
            assert (tensor is None and after[kind][name] is None) or torch.equal(tensor, after[kind][name])


def test_no_random_number_is_drawn(model):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    adapt(model)
    assert states() == before


def test_training_goes_on_as_if_nothing_had_been_adapted(model):
    def trained(model, adapting):
        torch.manual_seed(0)
        optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.1)
        losses = []
        for _ in range(3):
            loss = (model(torch.randn(4, 3, 16, 16)) - 1).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if adapting:
                adapt(model)
        return losses

    model.doubled = None
    twin = copy.deepcopy(model)
    losses = trained(model, adapting=True)
    assert losses == trained(twin, adapting=False) and losses[-1] < losses[0]


def test_the_backbone_stays_as_it_was_when_training_goes_on(model):
    image = torch.randn(1, 3, 16, 16)
    backbone = adapt(model)
    before = backbone(image)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert torch.equal(backbone(image), before)


def test_the_callers_hooks_are_not_run_and_the_line_says_so():
    model, seen = Convolution(), []
    handle = model.patches.register_forward_hook(lambda *_: seen.append(1))
    backbone = adapt(model)
    backbone(torch.randn(1, 3, 16, 16))
    assert not seen and "its forward hooks (1) are not run" in backbone.identity()["recognised"]
    model(torch.randn(1, 3, 16, 16))
    handle.remove()
    assert seen == [1]


def test_it_works_inside_of_autocast_and_inference_mode(model):
    image = torch.randn(1, 3, 16, 16)
    wanted = adapt(model)(image)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        backbone = adapt(model)
    assert torch.equal(backbone(image), wanted)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def wrapped_in_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS = {
    "DistributedDataParallel": wrapped_in_ddp,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(wrapped_in_ddp(model), backend="eager"),
    "an average of weights": torch.optim.swa_utils.AveragedModel,
    "a compiled part": lambda model: nn.Sequential(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_modules_are_read_as_the_module_inside(wrapper, model, process_group, monkeypatch):
    model.doubled = None  # an average cannot copy it
    image, wanted = torch.randn(1, 3, 16, 24), adapt(model)
    wrapped = WRAPPERS[wrapper](model)
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "forward", None)  # it would wait for other processes
    backbone = adapt(wrapped)
    assert torch.equal(backbone(image), wanted(image))
    assert not any("Optimized" in type(part).__name__ for part in backbone.modules())
    if wrapper != "a compiled part":
        assert (backbone.digest, backbone.info.code) == (wanted.digest, wanted.info.code)


class Trainer:
    def __deepcopy__(self, memo):
        raise AssertionError("the trainer and its data must not be copied")


def test_a_module_is_copied_without_the_trainer_that_owns_it():
    model = nn.Sequential(Convolution())
    model._trainer = trainer = Trainer()
    assert adapt(model).stride == 8
    assert model._trainer is trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_a_lightning_module_in_training():
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.strides = Convolution(), []

        def forward(self, images):
            return self.net(images)

        def training_step(self, images, _index):
            self.strides.append(adapt(self).stride)
            return self(images).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    model = Module()
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(torch.randn(2, 3, 16, 16), batch_size=2))
    assert model.strides == [8]


def test_sharded_modules_are_refused():
    from densebench.errors import UserError

    class FullyShardedDataParallel(Convolution):
        pass

    with pytest.raises(UserError, match="spread over processes.*plain module"):
        adapt(FullyShardedDataParallel())


def test_a_timm_model_keeps_its_own_settings():
    model = KINDS["timm ViT"][0]()
    model.dynamic_img_size = True
    strict = model.patch_embed.strict_img_size
    adapt(model)
    assert model.dynamic_img_size and model.patch_embed.strict_img_size == strict and model.training
