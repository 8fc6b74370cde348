"""CrIBo: cross-image object-level bootstrapping."""

from densebench.pretrain.cribo.method import CrIBo

__all__ = ["CrIBo"]
