"""Labelled data sets: one file a data set. `load_dataset` finds one by its name, its folder or its file."""

from densebench.datasets.catalog import load_dataset

__all__ = ["load_dataset"]
