"""FLSL: feature-level self-supervised learning."""

from densebench.pretrain.flsl.method import FLSL

__all__ = ["FLSL"]
