"""Models of the kinds that people have, all of them tiny, and what a hand would write to get their patch features."""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import nn

from densebench.torchvision_ops import make_importable

make_importable()

timm, torchvision = importlib.import_module("timm"), importlib.import_module("torchvision")

SMALL = {"num_classes": 5}


class Convolution(nn.Module):
    """Patches of 8 px, embedded; the others below arrange them in other ways."""

    def __init__(self, stride=8):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, stride, stride)

    def forward(self, images):
        return self.patches(images)

    def tokens(self, images):
        return self.patches(images).flatten(2).transpose(1, 2)


class ChannelsLast(Convolution):
    def forward(self, images):
        return self.patches(images).permute(0, 2, 3, 1)


class ColumnsFirst(Convolution):
    def forward(self, images):
        return self.patches(images).transpose(2, 3)


class TokensColumnByColumn(Convolution):
    def forward(self, images):
        return self.patches(images).transpose(2, 3).flatten(2).transpose(1, 2)


class TokensChannelsFirst(Convolution):
    def forward(self, images):
        return self.patches(images).flatten(2)


class Around(Convolution):
    """Tokens with others before and after them, which follow the whole image."""

    def __init__(self, before, after):
        super().__init__()
        self.before, self.after = before, after

    def forward(self, images):
        tokens = self.tokens(images)
        mean = tokens.mean(1, keepdim=True)
        return torch.cat([mean.expand(-1, self.before, -1), tokens, mean.expand(-1, self.after, -1)], dim=1)


class Dictionary(Convolution):
    def forward(self, images):
        grid = self.patches(images)
        return {"stem": F.relu(grid), "features": grid, "pooled": grid.mean((2, 3))}


class WithClassToken(Convolution):
    def forward(self, images):
        tokens = self.tokens(images)
        return tokens, tokens.mean(1)


class UNetEncoder(nn.Module):
    """A list of grids of ever larger stride."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(3))

    def forward(self, images):
        grids = []
        for stage in self.stages:
            images = F.relu(stage(images))
            grids.append(images)
        return grids


class Dino(nn.Module):
    """As the models of DINO's repository: forward gives the class token, and a method the tokens of the last layers, normalised."""

    patch_size = 8

    def __init__(self, registers=0):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, 1 + registers, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def encoded(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.prefix.expand(len(images), -1, -1), tokens], dim=1))

    def get_intermediate_layers(self, images, n=1):
        return [self.norm(self.encoded(images))]

    def forward(self, images):
        return self.norm(self.encoded(images))[:, 0]


class Dinov2(Dino):
    """As the models of DINOv2's repository: forward_features gives a dictionary."""

    def forward_features(self, images):
        tokens = self.norm(self.encoded(images))
        count = self.prefix.shape[1]
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, count:], "x_prenorm": self.encoded(images)}


def as_grid(tokens, images, stride, before=0):
    rows, columns = images.shape[2] // stride, images.shape[3] // stride
    return tokens[:, before : before + rows * columns].transpose(1, 2).unflatten(2, (rows, columns))


def of_timm(name, **more):
    return lambda: timm.create_model(name, **SMALL, **more)


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1), num_heads=(1, 1), img_size=64, window_size=4
    )


def torchvisions(name, **more):
    return lambda: getattr(torchvision.models, name)(**SMALL, **more)


def vit_of_torchvision():
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, **SMALL
    )


def encoded_by_torchvision(model, images):
    tokens = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), tokens], dim=1)
    return as_grid(model.encoder(tokens), images, 16, before=1)


def swin_by_torchvision():
    kind = torchvision.models.swin_transformer.SwinTransformer
    return kind(patch_size=[4, 4], embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=[4, 4], **SMALL)


def convnext_by_torchvision():
    setting = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([setting(8, 12, 1), setting(12, None, 1)], **SMALL)


def resnet_by_torchvision():
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], **SMALL)


def resnets_last(model, images):
    images = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(images))))


def of_transformers(kind, **more):
    import transformers

    config = getattr(transformers, f"{kind}Config")
    usual = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = more if "num_heads" in more else usual | more
    return lambda: getattr(transformers, f"{kind}Model")(config(**sizes))


FORWARD = lambda model, images: model(images)  # noqa: E731
KINDS = {
    # name: (make, dim, stride, what is said of it, by hand)
    "a plain CNN": (Convolution, 12, 8, "forward gives a grid [b d gh gw]", FORWARD),
    "channels last": (ChannelsLast, 12, 8, "[b gh gw d]", lambda m, x: m.patches(x)),
    "columns first": (ColumnsFirst, 12, 8, "its columns first", lambda m, x: m.patches(x)),
    "tokens alone": (lambda: Around(0, 0), 12, 8, "tokens [b n d];", lambda m, x: m.patches(x)),
    "tokens column by column": (TokensColumnByColumn, 12, 8, "column by column", lambda m, x: m.patches(x)),
    "tokens, channels first": (TokensChannelsFirst, 12, 8, "tokens [b d n];", lambda m, x: m.patches(x)),
    "a class token first": (lambda: Around(1, 0), 12, 8, "1 comes before the patches;", lambda m, x: m.patches(x)),
    "registers": (lambda: Around(5, 0), 12, 8, "5 come before the patches;", lambda m, x: m.patches(x)),
    "tokens after the patches": (lambda: Around(0, 4), 12, 8, "4 come after the patches;", lambda m, x: m.patches(x)),
    "tokens on both sides": (lambda: Around(1, 3), 12, 8, "1 comes before the patches and 3 come after", lambda m, x: m.patches(x)),
    "a dictionary": (Dictionary, 12, 8, "forward['features'] gives", lambda m, x: m.patches(x)),
    "tokens and a class token": (WithClassToken, 12, 8, "forward[0] gives tokens", lambda m, x: m.patches(x)),
    "a U-Net encoder": (UNetEncoder, 8, 8, "forward[2] gives a grid", lambda m, x: m(x)[2]),
    "DINO": (Dino, 16, 8, "get_intermediate_layers(images, 1)[0]", lambda m, x: as_grid(m.get_intermediate_layers(x)[0], x, 8, 1)),
    "DINO with registers": (
        lambda: Dino(4), 16, 8, "5 come before", lambda m, x: as_grid(m.get_intermediate_layers(x)[0], x, 8, 5),
    ),
    "DINOv2": (Dinov2, 16, 8, "['x_norm_patchtokens']", lambda m, x: as_grid(m.forward_features(x)["x_norm_patchtokens"], x, 8)),
    "timm ViT": (of_timm("test_vit"), 64, 16, "as timm:test_vit is", None),
    "timm ResNet": (of_timm("resnet10t"), 512, 32, "as timm:resnet10t is", lambda m, x: m.forward_features(x)),
    "timm ConvNeXt": (of_timm("test_convnext"), 64, 32, "as timm:test_convnext is", None),
    "timm EfficientNet": (of_timm("test_efficientnet"), 64, 32, "as timm:test_efficientnet is", None),
    "timm Swin of a size of its own": (swin, 24, 8, "images of 64 x 64 px only", lambda m, x: m.forward_features(x).movedim(3, 1)),
    "timm features_only": (of_timm("test_convnext", features_only=True), 64, 32, "forward[3] gives", lambda m, x: m(x)[3]),
    "torchvision ResNet": (resnet_by_torchvision, 512, 32, "its part layer4", resnets_last),
    "torchvision ConvNeXt": (convnext_by_torchvision, 12, 8, "its part features", lambda m, x: m.features(x)),
    "torchvision Swin": (swin_by_torchvision, 24, 8, "its part permute", lambda m, x: m.norm(m.features(x)).movedim(3, 1)),
    "torchvision ViT": (vit_of_torchvision, 16, 16, "its part encoder gives tokens", encoded_by_torchvision),
}  # fmt: skip
