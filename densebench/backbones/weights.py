"""Weights from files: the key layouts of the field, found by matching keys instead of by knowing every project.

A checkpoint is flattened to dotted keys. A prefix of the keys that the model expects (`teacher.module.backbone.`) is a branch;
`role` chooses among branches that match equally well. Keys under no branch (heads, decoders, optimisers, queues) are dropped.
This reads DINO, DINOv2 (also in chunks and with registers), iBOT, CrOC, CrIBo, NeCo, FLSL, Leopart, TimeT, MAE, DenseCL, ReSim,
PixPro, SoCo, VICRegL and timm.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from densebench.errors import UserError
from densebench.files.atomic import Damaged
from densebench.files.tensors import check

ROLES = ("teacher", "student")
TEACHER_WORDS = frozenset({"teacher", "ema", "momentum", "target"})
KEY_ENCODER = "k"
"""In MoCo and its heirs (ReSim, PixPro, SoCo) the teacher is the encoder of keys: `encoder_k` beside `encoder_q` or `encoder`."""
RENAMES = (  # other projects' names for what timm's ViT has
    (re.compile(r"(^|\.)register_tokens$"), r"\1reg_token"),
    (re.compile(r"(^|\.)blocks\.\d+\.(\d+)\."), r"\1blocks.\2."),  # DINOv2 trained in chunks
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),  # SwiGLU
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)
HEADS = re.compile(
    r"^(head|heads|fc|classifier|fc_norm|head_dist|mask_token|masked_embed|decoder\w*|projection\w*|prototypes\w*)(\.|$)"
)


@dataclass(frozen=True)
class Weights:
    """Tensors of a file under the model's own names, float32.

    branch: the prefix of the names in the file; origin: the project whose layout it is; dropped: keys under the branch that are
    not loaded.
    """

    tensors: dict[str, Tensor]
    branch: str
    origin: str
    dropped: tuple[str, ...]
    path: Path

    def patches(self, prefix: int) -> int | None:
        """Return how many patches the position table has after `prefix` entries (class, registers), or None without a table."""
        table = self.tensors.get("pos_embed")
        return None if table is None else table.shape[1] - prefix


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's keys."""

    path: Path
    branch: str
    loaded: int
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        where = f" under {self.branch!r}" if self.branch else ""
        odd = f" ({', '.join(self.unexpected[:3])})" if self.unexpected else ""
        return (
            f"{self.path.name}: {self.loaded} tensors loaded{where}, {len(self.dropped)} of heads dropped, "
            f"{len(self.unexpected)} unexpected{odd}"
        )


def read_weights(path: Path, expected: Collection[str], role: str = "teacher") -> Weights:
    """Read a checkpoint for a model whose keys are `expected`, and take the student's or the teacher's branch.

    A file with one branch serves both roles. Raises UserError where the file cannot be read, nothing in it matches, or it lacks
    the role.
    """
    if role not in ROLES:
        raise UserError(f"--role {role}: it takes {' or '.join(ROLES)}")
    flat = {rename(name, expected): tensor for name, tensor in flatten(_load(path)).items()}
    branch = choose_branch(path, branches(flat, expected), expected, list(flat), role)
    inside = {name[len(branch) :]: tensor for name, tensor in flat.items() if name.startswith(branch)}
    origin = origin_of(flat, inside, expected)
    unused = {"cls_token"} if origin == "flsl" else set()  # FLSL saves a class token that its model does not use
    tensors = {name: tensor.float() for name, tensor in inside.items() if name in expected and name not in unused}
    return Weights(tensors, branch, origin, tuple(sorted(inside.keys() - tensors.keys())), path)


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"--weights {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            check(path)
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # many files also hold the arguments of their run
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Damaged as error:
        raise UserError(f"--weights {path} is not a whole checkpoint ({error.why}); fetch it again") from error
    except Exception as error:  # damaged bytes fail in a dozen ways: IndexError, UnicodeDecodeError, struct.error, ...
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise UserError(f"--weights {path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    return content


def _unreadable(path: Path, error: Exception) -> UserError:
    """Return the error of a file that cannot be read.

    torch names the object that it refuses after GLOBAL; without one the bytes are no checkpoint.
    """
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return UserError(
            f"--weights {path} holds more than tensors, and loading it would run code ({refused[1]}); "
            "save its state dict as safetensors"
        )
    reason = str(error).splitlines()[0][:80] if isinstance(error, RuntimeError | OSError) and str(error) else type(error).__name__
    return UserError(f"--weights {path} is not a whole checkpoint ({reason}); fetch it again")


def flatten(tree: Mapping[Any, Any], before: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries by dotted keys; everything else is left out."""
    tensors: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor):
            tensors[f"{before}{name}"] = value
        elif isinstance(value, Mapping):
            tensors |= flatten(value, f"{before}{name}.")
    return tensors


def rename(name: str, expected: Collection[str]) -> str:
    """Return a key in the model's names: as it is if the model has it, else after RENAMES."""
    if any(name[start:] in expected for start in _starts(name)):
        return name
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _starts(name: str) -> list[int]:
    """Return where the parts of a dotted key begin."""
    return [0, *(dot.end() for dot in re.finditer(r"\.", name))]


def branches(flat: Collection[str], expected: Collection[str]) -> dict[str, int]:
    """Return each prefix of expected keys -> how many of them the file has under it."""
    prefixes = (name[:start] for name in flat for start in _starts(name) if name[start:] in expected)
    return dict(collections.Counter(prefixes))


def choose_branch(path: Path, counts: dict[str, int], expected: Collection[str], keys: list[str], role: str) -> str:
    """Return the branch of a role among those that match best.

    Raises UserError where none matches, or where several do and not exactly one of them has the role.
    """
    most = max(counts.values(), default=0)
    if most < 0.5 * len(expected):
        first, wanted = ", ".join(keys[:3]) or "no tensor", ", ".join(list(expected)[:3])
        raise UserError(f"--weights {path} does not match the model: it holds {first}, ...; the model wants {wanted}, ...")
    # half of the best match is enough to be a branch: a damaged teacher is reported later, not replaced by the student
    best = sorted(branch for branch, count in counts.items() if count > most / 2)
    if len(best) == 1:
        return best[0]
    words = {branch: set(re.split(r"[._]", branch)) for branch in best}
    keys_encoders = [branch for branch in best if KEY_ENCODER in words[branch]]
    teachers = [branch for branch in best if TEACHER_WORDS & words[branch]] or keys_encoders
    chosen = teachers if role == "teacher" else [branch for branch in best if branch not in {*teachers, *keys_encoders}]
    if len(chosen) != 1:
        raise UserError(f"--weights {path}: no single {role} among {', '.join(map(repr, best))}; give a file with one of them")
    return chosen[0]


def origin_of(flat: Collection[str], inside: Mapping[str, Tensor], expected: Collection[str]) -> str:
    """Return the project whose layout a checkpoint's keys show; its convention then resizes the position table (position.py).

    DINOv2's releases carry a mask token; a file of that architecture without one went through an export, which resizes by size,
    except with registers, where the releases and timm agree. With a head it is another model with layer scale, such as DeiT III.
    FLSL trains without a class token and its position, but saves the unused token.
    A ViT file without any head counts as one of the DINO family, whose releases are such files.
    """
    every = " ".join(flat)
    if "decoder_" in every:
        return "mae"
    headless = not any(HEADS.match(name) for name in inside if not name.startswith("mask"))
    scaled = "blocks.0.ls1.gamma" in inside
    if "reg_token" in inside:
        return "dinov2-reg" if scaled else "timm"
    if scaled:
        released = any(name.endswith("mask_token") for name in flat)
        return "dinov2" if released else "dinov2-exported" if headless else "timm"
    with_roles = any(name.split(".")[0] in ROLES for name in flat)
    stripped = "cls_token" in expected and "cls_token" not in inside
    if "pos_embed" in inside and _is_square(inside["pos_embed"].shape[1]) and (with_roles or stripped):
        return "flsl"
    if "cls_token" not in expected:
        return "timm"
    self_supervised = "head.mlp" in every or "last_layer" in every or with_roles
    return "dino" if "pos_embed" in inside and (headless or self_supervised) else "timm"


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def load_into(model: nn.Module, weights: Weights) -> LoadReport:
    """Load weights into a model and return a report.

    Raises UserError where a parameter is missing or has another shape, or the checkpoint has more blocks: nothing is left random
    or cut short.
    """
    state = model.state_dict()
    counters = {name: tensor for name, tensor in state.items() if name.endswith("num_batches_tracked")}  # old files have none
    tensors = counters | _fold_class_position(model, weights.tensors)
    missing = sorted(state.keys() - tensors.keys())
    if missing:
        raise UserError(
            f"--weights {weights.path} lacks {len(missing)} of {len(state)} tensors of the model: {', '.join(missing[:4])}"
        )
    deeper = sorted({block[0] for name in weights.dropped if (block := re.match(r"blocks\.\d+\.", name))})
    deeper = [block for block in deeper if not any(name.startswith(block) for name in state)]
    if deeper:
        raise UserError(
            f"--weights {weights.path} has {len(deeper)} blocks more than the model; "
            "name the architecture that the file was made with"
        )
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"--weights {weights.path}: {name} is {list(tensor.shape)}, the model's is {list(state[name].shape)}; "
                "name the architecture that the file was made with"
            )
    model.load_state_dict(tensors, strict=True)
    unexpected = tuple(name for name in weights.dropped if not HEADS.match(name))
    dropped = tuple(name for name in weights.dropped if HEADS.match(name))
    return LoadReport(weights.path, weights.branch, len(tensors), unexpected, dropped)


def _fold_class_position(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the class token's position added to the token where the model's table lacks it, as timm does."""
    table, position = tensors.get("pos_embed"), getattr(model, "pos_embed", None)
    if table is None or position is None or "cls_token" not in tensors or not getattr(model, "no_embed_class", False):
        return tensors
    if table.shape[1] != position.shape[1] + 1:
        return tensors
    return {**tensors, "cls_token": tensors["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the parameters and buffers of a state dict: names, types, shapes and bytes, in order of names."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
