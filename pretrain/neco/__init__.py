"""NeCo: patch neighbour consistency."""

from densebench.pretrain.neco.method import NeCo

__all__ = ["NeCo"]
