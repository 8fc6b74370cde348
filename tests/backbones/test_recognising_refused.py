"""What gives no patch features that can be trusted is refused in one line, which says what to do."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from recognised_models import Convolution
from torch import nn

from densebench.backbones.recognising import adapt
from densebench.errors import UserError


class Dropped(Convolution):
    def forward(self, images):
        return F.dropout(self.patches(images), 0.1)


class BatchStatistics(Convolution):
    def forward(self, images):
        return F.batch_norm(self.patches(images), None, None, training=True)


class Shuffled(Convolution):
    def forward(self, images):
        tokens = self.tokens(images)
        order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(1))
        return tokens[:, order]


class Counting(Convolution):
    calls = 0

    def forward(self, images):
        self.calls += 1
        return self.patches(images) + self.calls


class Two(Convolution):
    def forward(self, images):
        grid = self.patches(images)
        return {"student": grid, "teacher": 2 * grid}


class Resized(Convolution):
    def forward(self, images):
        return self.patches(F.interpolate(images, (64, 64)))


class Products(Convolution):
    def forward(self, images):
        tokens = self.tokens(images)
        return tokens @ tokens.mT


class Text(Convolution):
    def forward(self, words, mask):
        return words * mask


class Locked(Convolution):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class SequenceFirst(Convolution):
    """A classifier whose last tokens lie as [n b d]: the grid of its first layer must not be taken for its features."""

    def __init__(self):
        super().__init__()
        self.block, self.head = nn.TransformerEncoderLayer(12, 2, 24), nn.Linear(12, 5)

    def forward(self, images):
        return self.head(self.block(self.tokens(images).transpose(0, 1))[0])


def patched():
    model = Convolution()
    model.forward = lambda images: model.patches(images)
    return model


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def lazy():
    return nn.LazyConv2d(4, 8, 8)


def on_meta():
    with torch.device("meta"):
        return Convolution()


REFUSED = {
    "dropout that is always on": (Dropped, "the second time, in evaluation mode"),
    "batch statistics": (BatchStatistics, "depend on the other images of its batch"),
    "shuffled tokens": (Shuffled, "do not follow the patches"),
    "kept from call to call": (Counting, "kept from call to call"),
    "two that could be it": (Two, r"several features of stride 8: \['student'\], \['teacher'\]"),
    "images resized inside": (Resized, r"32 x 32 px: \[2, 12, 8, 8\], of 48 x 48 px: \[2, 12, 8, 8\]"),
    "similarities": (Products, r"\[2, 16, 16\], of 48 x 48 px: \[2, 36, 36\]"),
    "a classifier": (mlp, r"32 x 32 px: \[2, 10\].*features=lambda m, x"),
    "tokens first": (SequenceFirst, r"\[2, 5\].*features=lambda m, x"),
    "a 1D model": (lambda: nn.Conv1d(3, 4, 3), "forward fails on 64 x 64 px .*conv1d"),
    "a model of text": (Text, "missing 1 required positional argument: 'mask'"),
    "what cannot be copied": (Locked, "cannot be copied .*in its attribute lock.*such as model.backbone"),
    "a replaced forward": (patched, "its attribute forward is a function that holds a module"),
    "a lazy layer": (lazy, "has no values yet"),
    "the meta device": (on_meta, "meta device"),
    "a class": (lambda: Convolution, "the class Convolution, not an object"),
    "a number": (lambda: 3, "of the class int"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_it_is_refused_in_one_line(kind):
    make, message = REFUSED[kind]
    torch.manual_seed(0)
    with pytest.raises(UserError, match=message) as caught:
        adapt(make())
    assert "\n" not in str(caught.value)


def test_a_collapsed_model_is_scored_and_its_line_says_so():
    model = Convolution()
    nn.init.zeros_(model.patches.weight)
    backbone = adapt(model)
    assert backbone.stride == 8
    assert "no feature changes most with its own patch" in backbone.identity()["recognised"]


def test_features_that_name_the_live_module_are_refused():
    model = Convolution()
    with pytest.raises(UserError, match="use its first argument"):
        adapt(model, features=lambda m, x: model.patches(x))
    adapt(model, features=lambda m, x: m.patches(x))


def test_a_function_that_calls_another_one_is_refused():
    model = Convolution()

    def inner(images):
        return model(images)

    with pytest.raises(UserError, match="calls other functions that hold a module"):
        adapt(lambda images: inner(images))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "pixels from 0 to 255"),
        ({"mean": 0.5}, "has 1 numbers"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
        ({"mean": "imagenet"}, "three numbers"),
    ],
)
def test_colour_statistics_that_cannot_be_are_refused(told, message):
    with pytest.raises(UserError, match=message):
        adapt(Convolution(), **told)
