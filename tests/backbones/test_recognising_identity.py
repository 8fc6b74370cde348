"""What computes otherwise has another identity: weights, code, plain attributes; and what only looks otherwise has not."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from recognised_models import Convolution
from torch import nn

from densebench.backbones import without_labels
from densebench.backbones.recognising import adapt


def net():
    torch.manual_seed(0)
    return Convolution()


def identity(model, **more):
    return without_labels(adapt(model, **more).identity())


def test_the_same_module_has_the_same_identity_and_its_facts():
    model = net()
    found = identity(model)
    assert found == identity(model.train(False)) == identity(model.requires_grad_(False)) == identity(net())
    assert (found["kind"], adapt(model).identity()["spec"], found["arch"]) == ("module", "module:Convolution", "Convolution")
    assert "recognised" not in found


def test_weights_decide():
    model = net()
    with torch.no_grad():
        model.patches.bias[0] += 1e-3
    assert identity(model)["digest"] != identity(net())["digest"]
    assert identity(model)["code"] == identity(net())["code"]


def scaled(factor):
    class Scaled(Convolution):
        def forward(self, images):
            return factor * super().forward(images)

    torch.manual_seed(0)
    return Scaled()


def relued():
    class Scaled(Convolution):
        def forward(self, images):
            return super().forward(images).relu()

    torch.manual_seed(0)
    return Scaled()


class Tempered(Convolution):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, images):
        return self.patches(images) / self.temperature


def tempered(temperature):
    torch.manual_seed(0)
    return Tempered(temperature)


def with_buffer(value, persistent):
    model = net()
    model.register_buffer("shift", torch.tensor(value), persistent=persistent)
    return model


def activated(activation):
    model = tempered(1)
    model.activation = activation
    return model


def held_in_a_list(value):
    torch.manual_seed(0)
    model = net()
    model.hidden = [nn.Conv2d(1, 1, 1)]
    nn.init.constant_(model.hidden[0].weight, value)
    nn.init.zeros_(model.hidden[0].bias)
    return model


PAIRS = {
    "the value of a closure": (lambda: scaled(2.0), lambda: scaled(3.0)),
    "the code of forward": (lambda: scaled(2.0), relued),
    "a plain attribute": (lambda: tempered(0.1), lambda: tempered(0.2)),
    "a list of them": (lambda: tempered([1, 2]) and activated([1, 2]), lambda: activated([1, 3])),
    "a buffer that is not saved": (lambda: with_buffer(1.0, False), lambda: with_buffer(2.0, False)),
    "a function that is held": (lambda: activated(torch.relu), lambda: activated(torch.tanh)),
    "a partial that is held": (
        lambda: activated(functools.partial(torch.clamp, min=0)),
        lambda: activated(functools.partial(torch.clamp, min=1)),
    ),
    "a module in a list": (lambda: held_in_a_list(1.0), lambda: held_in_a_list(2.0)),
    "a setting of a layer of torch": (lambda: nn.Sequential(net(), nn.ELU(1.0)), lambda: nn.Sequential(net(), nn.ELU(0.5))),
}


@pytest.mark.parametrize("what", PAIRS)
def test_what_computes_otherwise_has_another_identity(what):
    first, second = PAIRS[what]
    assert identity(first()) == identity(first())
    assert identity(first()) != identity(second())


def test_where_a_model_was_fetched_from_does_not_decide():
    models = net(), net()
    models[1].name_or_path = "elsewhere"
    assert identity(models[0]) == identity(models[1])


def test_functions_of_one_line_differ():
    model = net()
    keys = [lambda m, x: {"a": m(x), "b": 2 * m(x)}["a"], lambda m, x: {"a": m(x), "b": 2 * m(x)}["b"]]
    first, second, none = (identity(model, features=how)["code"] for how in (*keys, None))
    assert len({first, second, none}) == 3


def test_functions_with_other_defaults_globals_and_arguments_differ():
    found = [identity(lambda x, power=power: torch.nn.functional.avg_pool2d(x, 8) ** power)["code"] for power in (1, 3)]
    model = net()
    found += [identity(functools.partial(lambda n, m, x: n * m(x), number, model))["code"] for number in (1, 2)]
    assert len(set(found)) == 4


def test_a_function_is_identified_by_the_weights_that_it_holds():
    models = net(), tempered(1), net()
    nn.init.zeros_(models[2].patches.bias)
    first, _, third = (identity(functools.partial(lambda m, x: m(x), model))["digest"] for model in models)
    assert first != third


SCRIPT = """
import torch
from densebench.backbones.recognising import adapt

POWER = {power}

def helper(images):
    return torch.nn.functional.avg_pool2d(images, 8) ** POWER

class Net(torch.nn.Module):
    names = frozenset({{"one", "two", "three"}})

    def forward(self, images):
        return helper(images) if "one" in {{"one", "two", "three"}} else images

if __name__ == "__main__":
    print(adapt(Net()).info.code)
"""


def typed_in(power):
    """Return the module of a class that was typed in, as in a notebook: it has no file."""
    scope = {"__name__": "typed_in"}
    exec(SCRIPT.format(power=power), scope)
    return scope["Net"]()


def test_a_class_without_a_file_is_identified_by_what_it_calls():
    assert identity(typed_in(1)) == identity(typed_in(1))
    assert identity(typed_in(1))["code"] != identity(typed_in(3))["code"]


@pytest.mark.slow
def test_a_script_is_identified_alike_in_every_process_and_by_what_its_class_calls(tmp_path):
    def code(power, name="script.py"):
        (tmp_path / name).write_text(SCRIPT.format(power=power))
        done = subprocess.run([sys.executable, tmp_path / name], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    first = code(1)
    assert first == code(1, "elsewhere.py") != code(3)


def test_the_name_is_a_label():
    named = adapt(net(), name="mine")
    assert named.identity()["name"] == "mine"
    assert "name" not in adapt(net()).identity()
    assert without_labels(named.identity()) == identity(net())
