"""Weights from files: the key layouts of the field, found by matching keys instead of by knowing every project.

A checkpoint is flattened to dotted keys. Whatever stands before the keys that the model expects (`teacher.module.backbone.`) is a
branch; `role` chooses among branches that match equally well. What stands under no branch (heads, decoders, optimisers, queues)
is dropped. Read this way: DINO, DINOv2 (also in chunks and with registers), iBOT, CrOC, CrIBo, NeCo, FLSL, Leopart, MAE, timm.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from densebench.errors import UserError

ROLES = ("teacher", "student")
TEACHER_WORDS = frozenset({"teacher", "ema", "momentum", "target", "model_ema", "momentum_encoder"})
RENAMES = (  # other projects' names for what timm's ViT has
    (re.compile(r"(^|\.)register_tokens$"), r"\1reg_token"),
    (re.compile(r"(^|\.)blocks\.\d+\.(\d+)\."), r"\1blocks.\2."),  # DINOv2 trained in chunks
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),  # SwiGLU
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)
HEADS = re.compile(r"^(head|heads|fc|classifier|fc_norm|head_dist|mask_token|decoder\w*|projection\w*|prototypes\w*)(\.|$)")


@dataclass(frozen=True)
class Weights:
    """Tensors in the model's own names, float32.

    branch: what stood before the names; origin: whose layout it is; dropped: keys under the branch that no backbone has.
    """

    tensors: dict[str, Tensor]
    branch: str
    origin: str
    dropped: tuple[str, ...]
    path: Path

    def patches(self, prefix: int) -> int | None:
        """How many patches the position table has after `prefix` entries for class and registers, or None without a table."""
        table = self.tensors.get("pos_embed")
        return None if table is None else table.shape[1] - prefix


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's keys."""

    path: Path
    branch: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        where = f" under {self.branch!r}" if self.branch else ""
        odd = f" ({', '.join(self.unexpected[:3])})" if self.unexpected else ""
        return (
            f"{self.path.name}: {self.loaded} tensors loaded{where}, {len(self.dropped)} of heads dropped, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected{odd}"
        )


def read_weights(path: Path, expected: Collection[str], role: str = "teacher") -> Weights:
    """Read a checkpoint for a model whose keys are `expected`, and take the student's or the teacher's branch.

    A file with one branch serves both roles. Raises UserError where the file cannot be read, nothing in it matches, or the
    role is not there.
    """
    if role not in ROLES:
        raise UserError(f"--role {role}: it takes {' or '.join(ROLES)}")
    flat = {rename(name, expected): tensor for name, tensor in flatten(_load(path)).items()}
    branch = choose_branch(path, branches(flat, expected), expected, list(flat), role)
    inside = {name[len(branch) :]: tensor for name, tensor in flat.items() if name.startswith(branch)}
    kept = {name: tensor.float() for name, tensor in inside.items() if name in expected}
    dropped = tuple(sorted(name for name in inside if name not in expected))
    return Weights(kept, branch, origin_of(flat, inside), dropped, path)


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"--weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # their saved arguments
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--weights {path} holds more than tensors, and loading it would run code ({reason}); "
            "save its state dict as safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--weights {path} is not a whole checkpoint ({reason}); fetch it again") from error
    if not isinstance(found, Mapping):
        raise UserError(f"--weights {path} holds a {type(found).__name__}, not a state dict; save model.state_dict()")
    return found


def flatten(tree: Mapping[str, Any], before: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries by dotted keys; everything else is left out."""
    found: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor):
            found[f"{before}{name}"] = value
        elif isinstance(value, Mapping):
            found |= flatten(value, f"{before}{name}.")
    return found


def rename(name: str, expected: Collection[str]) -> str:
    """A key in the model's words: as it is if the model knows it, else after RENAMES."""
    if any(name[start:] in expected for start in _starts(name)):
        return name
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _starts(name: str) -> list[int]:
    """Where the parts of a dotted key begin."""
    return [0, *(dot.end() for dot in re.finditer(r"\.", name))]


def branches(flat: Collection[str], expected: Collection[str]) -> dict[str, int]:
    """What stands before expected keys, and how many of them it stands before."""
    found = (name[:start] for name in flat for start in _starts(name) if name[start:] in expected)
    return dict(collections.Counter(found))


def choose_branch(path: Path, counts: dict[str, int], expected: Collection[str], keys: list[str], role: str) -> str:
    """The branch of a role among those that match best. Raises UserError where none matches, or the role is not among several."""
    most = max(counts.values(), default=0)
    if most < 0.5 * len(expected):
        first, wanted = ", ".join(keys[:3]) or "no tensor", ", ".join(list(expected)[:3])
        raise UserError(f"--weights {path} does not match the model: it holds {first}, ...; the model wants {wanted}, ...")
    best = sorted(branch for branch, count in counts.items() if count == most)
    if len(best) == 1:
        return best[0]
    teachers = [branch for branch in best if TEACHER_WORDS & set(branch.split("."))]
    chosen = teachers if role == "teacher" else [branch for branch in best if branch not in teachers]
    if len(chosen) != 1:
        raise UserError(f"--weights {path}: no single {role} among {', '.join(map(repr, best))}; give a file with one of them")
    return chosen[0]


def origin_of(flat: Collection[str], inside: Collection[str]) -> str:
    """Whose layout a checkpoint has, as far as its keys tell; position tables are resized as that code does (position.py).

    DINOv2's releases carry a mask token; a file of that architecture without one went through an export, which resizes by size.
    A ViT file without any head is taken for one of the DINO family, whose releases are such files.
    """
    every = " ".join(flat)
    if "decoder_" in every:
        return "mae"
    if "blocks.0.ls1.gamma" in inside:
        released = any(name.endswith("mask_token") for name in flat)
        return ("dinov2-reg" if "reg_token" in inside else "dinov2") if released else "dinov2-exported"
    if "pos_embed" in inside and "cls_token" not in inside:
        return "flsl"
    headless = not any(HEADS.match(name) for name in inside)
    self_supervised = "head.mlp" in every or "last_layer" in every or any(name.split(".")[0] in ROLES for name in flat)
    return "dino" if "pos_embed" in inside and (headless or self_supervised) else "timm"


def load_into(model: nn.Module, weights: Weights) -> LoadReport:
    """Fill a model. Raises UserError where a parameter is missing or has another shape: nothing is ever left random."""
    own = model.state_dict()
    tensors = _fold_class_position(model, weights.tensors)
    missing = sorted(own.keys() - tensors.keys())
    if missing:
        raise UserError(
            f"--weights {weights.path} lacks {len(missing)} of {len(own)} tensors of the model: {', '.join(missing[:4])}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"--weights {weights.path}: {name} is {list(tensor.shape)}, the model's is {list(own[name].shape)}; "
                "name the architecture that the file was made with"
            )
    model.load_state_dict(tensors, strict=True)
    unexpected = tuple(name for name in weights.dropped if not HEADS.match(name))
    dropped = tuple(name for name in weights.dropped if HEADS.match(name))
    return LoadReport(weights.path, weights.branch, len(tensors), (), unexpected, dropped)


def _fold_class_position(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where the model keeps no position for the class token (registers), add the checkpoint's to the token, as timm does."""
    table, own = tensors.get("pos_embed"), getattr(model, "pos_embed", None)
    if table is None or own is None or "cls_token" not in tensors or not getattr(model, "no_embed_class", False):
        return tensors
    if table.shape[1] != own.shape[1] + 1:
        return tensors
    return {**tensors, "cls_token": tensors["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}


def weights_digest(model: nn.Module) -> str:
    """The SHA-256 of all parameters and buffers that a state dict holds: names, types, shapes and bytes, in order of names."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
