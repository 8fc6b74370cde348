"""Table files for tests, and what is read from them."""

from __future__ import annotations

from densebench.tables.table_file import read_table

SMALL = """
title = "Two networks on drawn scenes"
published = "cribo:1"
[[backbone]]
spec = "random:test_vit"
name = "first"
row = {method = "DINO", backbone = "ViT-S/16"}
[[backbone]]
spec = "random:test_vit"
name = "second"
seed = 5
[[pretrain]]
method = "cribo"
preset = "tiny"
data = ["scenes"]
name = "CrIBo {lambda_pos}"
sweep.lambda_pos = [0, 0.5]
row = {method = "CrIBo", setting = "lambda_pos={lambda_pos}"}
[[evaluation]]
protocol = "incontext"
datasets = ["scenes"]
fractions = [1, 8]
[[evaluation]]
protocol = "kmeans"
datasets = ["scenes"]
backbones = ["first"]
limit = 9
"""
"""A whole table: what each kind of entry takes."""

BACKBONE = '[[backbone]]\nspec = "random:test_vit"\nname = "net"\n'
PRETRAIN = '[[pretrain]]\nmethod = "dino"\ndata = ["scenes"]\nname = "run"\n'
EVALUATION = '[[evaluation]]\nprotocol = "kmeans"\ndatasets = ["scenes"]\n'


def read(folder, text, *overrides, name="small.toml"):
    """Write a table file and read it."""
    path = folder / name
    path.write_text(text)
    return read_table(path, overrides)
