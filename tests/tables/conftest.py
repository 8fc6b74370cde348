"""The folder of a table for the tests of this folder."""

from toy_cells import folder

__all__ = ["folder"]
