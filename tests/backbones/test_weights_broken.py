"""Files that are no checkpoint of the model: one line that names the file and what is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_vits import PLAIN, STUDENT, TEACHER, model, state, written

from densebench.backbones.loading import load_backbone
from densebench.backbones.weights import read_weights, weights_digest
from densebench.errors import UserError


def test_a_damaged_teacher_is_never_replaced_by_the_student(tmp_path):
    damaged = {name: tensor for name, tensor in TEACHER.items() if name != "norm.bias"}
    path = written(tmp_path, {"teacher": damaged, "student": STUDENT})
    with pytest.raises(UserError, match="lacks 1 of 30 tensors of the model: norm.bias"):
        load_backbone(f"timm:{PLAIN}", weights=path)
    assert load_backbone(f"timm:{PLAIN}", weights=path, role="student").digest == weights_digest(model(seed=1))


def test_a_deeper_checkpoint_is_not_cut_short(tmp_path):
    with pytest.raises(UserError, match="has 2 blocks more than the model"):
        load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, state(PLAIN, depth=4)))


def test_the_report_counts_keys(tmp_path, capsys):
    load_backbone(
        f"timm:{PLAIN}", weights=written(tmp_path, {**TEACHER, "head.weight": torch.zeros(1), "odd.key": torch.zeros(1)})
    )
    said = capsys.readouterr().err
    assert f"{len(TEACHER)} tensors loaded" in said
    assert "1 of heads dropped, 1 unexpected (odd.key)" in said


class Unsafe:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2)}, "does not match the model: it holds fc.weight, ...; the model wants cls_token"),
        ({}, "does not match the model: it holds no tensor"),
        ({k: v for k, v in TEACHER.items() if "blocks.1.attn" not in k}, "lacks 4 of .*blocks.1.attn.proj.bias"),
        ({**TEACHER, "norm.weight": torch.zeros(64)}, r"norm.weight is \[64\], the model's is \[32\]"),
        ({"left": TEACHER, "right": STUDENT}, "no single teacher among"),
        ([1, 2], "holds a list, not a state dict"),
        (Unsafe(), r"holds more than tensors.*\(print\).*safetensors"),
    ],
    ids=["nothing", "empty", "missing", "shape", "branches", "list", "unsafe"],
)
def test_wrong_files_are_errors_that_name_them(content, message, tmp_path, capsys):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(f"timm:{PLAIN}", weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"",
        b"\0" * 100,
        b"PK\x03\x04",
        b"\x80\x02]q",
        b"X\x03\0\0\0\xff",
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_files_are_no_checkpoints(content, suffix, tmp_path):
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a whole checkpoint") as caught:
        read_weights(path, TEACHER.keys())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60), at=st.integers(0, 400), legacy=st.booleans(), whole=st.booleans())
def test_no_damage_is_a_traceback(content, at, legacy, whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "weights.pth"
    torch.save({"norm.weight": TEACHER["norm.weight"]}, path, _use_new_zipfile_serialization=not legacy)
    original = path.read_bytes() if whole else b""
    path.write_bytes(original[:at] + content + original[at + len(content) :])
    with pytest.raises(UserError):  # one tensor never matches the model, damaged or not
        read_weights(path, TEACHER.keys())


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_truncated_file_is_told(name, tmp_path):
    path = tmp_path / name
    torch.save(TEACHER, path) if name.endswith("pth") else save_file(TEACHER, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        read_weights(path, TEACHER.keys())
    with pytest.raises(UserError, match="there is no such file"):
        read_weights(tmp_path / "nowhere.pth", TEACHER.keys())


def test_a_role_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="unknown role 'teachr': did you mean 'teacher'"):
        load_backbone(f"timm:{PLAIN}", weights=written(tmp_path, TEACHER), role="teachr")
