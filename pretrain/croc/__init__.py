"""CrOC: cross-view online clustering."""

from densebench.pretrain.croc.method import CrOC

__all__ = ["CrOC"]
