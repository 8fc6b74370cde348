"""The sources of backbones, by the form of a spec."""

from __future__ import annotations


def sources() -> dict[str, str]:
    """The forms of a spec, each with what it means. Imports nothing."""
    return {
        "timm:NAME": "a timm model, with its pretrained weights or those of --weights FILE",
        "random:NAME": "the same architecture as initialised with --seed",
        "ckpt:DIR": "what `densebench pretrain` wrote",
        "hub:REPO:ENTRY": "a torch hub entry, or a local folder with a hubconf.py",
        "hf:REPO": "a transformers model (pip install 'densebench[hf]')",
        "pixels:STRIDE": "the pixels of each patch: the baseline without a model",
        "./file.py": "a Python file with a function load() that returns a module",
    }
