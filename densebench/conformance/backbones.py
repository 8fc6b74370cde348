"""What every backbone must do: map an image to a grid of features of its patches, alone, the same every time, in their places."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.conformance.checking import Check, Failed, Step, carried_out
from densebench.errors import UserError

SIDE = 224  # px, about: the smallest multiple of the stride that is not below
TOLERANCE = 1e-3  # of the largest feature, for sums that other batch sizes make in another order
EVAL = "call model.eval(), and keep dropout and batch statistics out of forward()"


def check_backbone(spec: str) -> Iterator[Check]:
    """Yield the checks of a backbone, by the spec that `load_backbone` takes; the first is whether it can be loaded.

    What a module returns is recognised when it is loaded, which finds many mistakes: random features, features that depend on
    the other images of a batch, patches out of place.
    """
    try:
        backbone = load_backbone(spec)
    except UserError as error:
        yield Check("loads", False, str(error))
        return
    yield Check("loads", True, backbone.identity().get("recognised") or backbone.arch)
    trial = _Trial(spec, backbone)
    yield from carried_out([
        Step("grid", trial.grid, needed=True),
        Step("other shapes", trial.other_shapes),
        Step("statistics", trial.statistics),
        Step("eval mode", trial.eval_mode),
        Step("repeats", trial.repeats),
        Step("batch", trial.batch),
        Step("content", trial.content),
        Step("positions", trial.positions),
        Step("identity", trial.identity),
    ])  # fmt: skip


class _Trial:
    """A backbone, and images of a size that it takes."""

    def __init__(self, spec: str, backbone: Backbone) -> None:
        self.spec, self.backbone = spec, backbone
        self.side = -(-SIDE // backbone.multiple) * backbone.multiple

    def images(self, count: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Tensor:
        """Return images of noise, normalised, `[count 3 h w]`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, height or self.side, width or self.side, generator=generator)

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images, `[b d gh gw]`."""
        with torch.inference_mode():
            return self.backbone(images)

    def grid(self) -> str:
        features = self.features(self.images(1))
        self._check_shape(features, self.side, self.side)
        if not features.isfinite().all():
            raise Failed("features hold infinities or NaN; look for divisions and for half precision")
        if features.dtype != torch.float32:
            raise Failed(f"features are {str(features.dtype).removeprefix('torch.')}; return float32")
        return f"{self.backbone.dim} features every {self.backbone.stride} px"

    def _check_shape(self, features: Tensor, height: int, width: int) -> None:
        stride = self.backbone.stride
        expected = (self.backbone.dim, height // stride, width // stride)
        if tuple(features.shape[1:]) != expected:
            found = tuple(features.shape[1:])
            raise Failed(f"{height} x {width} px (height x width) give {found}; expected [d h/{stride} w/{stride}], {expected}")

    def other_shapes(self) -> str:
        stride, shapes = self.backbone.multiple, []
        for height, width in ((self.side + 2 * stride, self.side + 2 * stride), (self.side, self.side + 2 * stride)):
            try:
                features = self.features(self.images(1, height, width))
            except UserError as error:
                raise Failed(f"{height} x {width} px (height x width) are refused: {error}") from error
            except Exception as error:
                raise Failed(
                    f"{height} x {width} px (height x width) end in {type(error).__name__}: {error}; take any multiple of "
                    f"{stride} px, as protocols see larger and oblong images"
                ) from error
            self._check_shape(features, height, width)
            shapes.append(f"{height} x {width}")
        return " and ".join(shapes) + " px"

    def statistics(self) -> str:
        mean, std = self.backbone.mean, self.backbone.std
        if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
            raise Failed(f"mean {mean} and std {std} are not of values between 0 and 1; divide those of 0..255 by 255")
        words = (",".join(f"{value:.3g}" for value in values) for values in (mean, std))
        return "mean {}, std {}".format(*words)

    def eval_mode(self) -> str:
        self.features(self.images(1))
        for name, module in self.backbone.named_modules():
            if module.training:
                raise Failed(f"{name or 'the model'} ({type(module).__name__}) is in training mode after an image; {EVAL}")
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                raise Failed(f"{name} wants a gradient; leave parameters frozen in forward()")
        return "frozen, no part is in training mode"

    def _differs(self, first: Tensor, second: Tensor) -> float:
        """Return the largest difference as a share of the largest feature."""
        return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))

    def repeats(self) -> str:
        images = self.images(2)
        share = self._differs(self.features(images), self.features(images))
        if share > 1e-6:
            raise Failed(f"the same images twice give features that differ by {share:.1%} of the largest; {EVAL}")
        return "the same images give the same features"

    def batch(self) -> str:
        images = self.images(4)
        together, alone = self.features(images), torch.cat([self.features(image[None]) for image in images])
        share = self._differs(alone, together)
        if share > TOLERANCE:
            raise Failed(f"an image among three others gives features that differ by {share:.1%} of the largest; {EVAL}")
        return "an image among others gives the features that it gives alone"

    def content(self) -> str:
        first, second = (self.features(self.images(1, seed=seed)) for seed in (0, 1))
        if self._differs(first, second) < 1e-6:
            raise Failed("two images give the same features; see that forward() uses the images that it gets")
        if float(first.flatten(2).std(2).max()) < 1e-6 * float(first.abs().max()):
            raise Failed("all patches of an image have the same features; return the grid before any pooling")
        return "other images and other patches give other features"

    def positions(self) -> str:
        """Check that a bright corner changes the features of this corner most."""
        stride, size = self.backbone.stride, 2 * self.backbone.stride
        image = 0.1 * self.images(1)
        plain = self.features(image)
        for name, top, left in (("top left", 0, 0), ("top right", 0, -1), ("bottom left", -1, 0), ("bottom right", -1, -1)):
            bright = image.clone()
            rows, columns = (slice(-size, None) if end else slice(0, size) for end in (top, left))
            bright[:, :, rows, columns] = 2.0
            change = (self.features(bright) - plain).norm(dim=1)[0]
            row, column = divmod(int(change.argmax()), change.shape[1])
            ends = [index >= length / 2 for index, length in ((row, change.shape[0]), (column, change.shape[1]))]
            if ends != [bool(top), bool(left)]:
                raise Failed(
                    f"brightness in the {name} corner changes the feature in row {row}, column {column} of {change.shape[0]} x "
                    f"{change.shape[1]} most; see the order of patches: features[:, :, i, j] is of pixel rows {stride} i on and "
                    f"columns {stride} j on, without the class token"
                )
        return "a bright corner changes the features of this corner most"

    def identity(self) -> str:
        first, second = (without_labels(each.identity()) for each in (self.backbone, load_backbone(self.spec)))
        if changed := [name for name in first if first[name] != second.get(name)]:
            raise Failed(
                f"{', '.join(changed)} differ between two loads; load() must give the same weights every time: read them from a "
                "file, or call torch.manual_seed first"
            )
        return f"digest {self.backbone.digest[:8]} on two loads"


__all__ = ["check_backbone"]
