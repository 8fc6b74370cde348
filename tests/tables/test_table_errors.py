"""Whatever is wrong in a table file gives one line that names the file, the entry and the remedy."""

from __future__ import annotations

import pytest
from table_files import BACKBONE, EVALUATION, PRETRAIN, read

from densebench.errors import UserError
from densebench.tables.table_file import read_table

NET = BACKBONE + EVALUATION
WRONG = {
    "an unknown key of the file": ('titel = "x"\n' + NET, "unknown key 'titel': did you mean 'title'"),
    "an unknown key of a backbone": (
        NET + BACKBONE.replace("name", "nmae"),
        "[[backbone]] 2: unknown key 'nmae': did you mean 'name'",
    ),
    "an unknown key of a pretraining": (
        NET + PRETRAIN + "epoch = 3\n",
        "[[pretrain]] 1: unknown key 'epoch': did you mean 'epochs'",
    ),
    "an unknown key of an evaluation": (NET + "sed = 3\n", "[[evaluation]] 1: unknown key 'sed': did you mean 'seeds'"),
    "no work": (BACKBONE, "no work: it needs a [[pretrain]], or a [[backbone]] and an [[evaluation]]"),
    "no table": ('title = "x"\n', "it is no table"),
    "no TOML": ("= 3", "(at line 1, column 1); give a TOML file or a name of `densebench ls tables`"),
    "JSON": ('{"backbone": []}', "is not TOML"),
    "one bracket": ('[backbone]\nspec = "random:test_vit"\n', "write [[backbone]] above each entry"),
    "no spec": ('[[backbone]]\nname = "x"\n' + EVALUATION, "[[backbone]] 1: spec is missing"),
    "an unknown kind of backbone": (NET.replace("random:", "ramdom:"), "did you mean 'random:test_vit'"),
    "weights of another kind": (BACKBONE + 'weights = "x.pth"\n' + EVALUATION, 'weights = x.pth goes with spec = "timm:NAME"'),
    "a wrong digest": (NET + BACKBONE + 'sha256 = "abc"\n', "[[backbone]] 2: sha256 = abc: it takes 64 hexadecimal digits"),
    "two colours": (
        BACKBONE + "std = [0.5, 0.5]\n" + EVALUATION,
        "std = [0.5, 0.5]: it takes three numbers, for red, green and blue",
    ),
    "a name in two lines": (NET.replace('"net"', r'"n\net"'), "name = n et: it takes a text that is not empty, in one line"),
    "an empty name": (NET.replace('"net"', '" "'), "it takes a text that is not empty"),
    "an unknown column": (
        BACKBONE + 'row = {methode = "x"}\n' + EVALUATION,
        "unknown column in row 'methode': did you mean 'method'",
    ),
    "a name twice": (NET + BACKBONE + "seed = 1\n", "[[backbone]] 1 and [[backbone]] 2: the backbone 'net' is there twice"),
    "a backbone twice": (NET + BACKBONE.replace('"net"', '"other"'), "[[backbone]] 1 and [[backbone]] 2: the same backbone"),
    "a name of a backbone and a pretraining": (NET + PRETRAIN.replace('"run"', '"net"'), "'net' is there twice"),
    "an unknown method": (PRETRAIN.replace("dino", "dinoo"), "[[pretrain]] 1: unknown method 'dinoo': did you mean 'dino'"),
    "an unknown preset of a method": (PRETRAIN + 'preset = "tinny"\n', "unknown preset 'tinny': did you mean 'tiny'"),
    "an unknown protocol": (NET.replace("kmeans", "kmean"), "[[evaluation]] 1: unknown protocol 'kmean': did you mean 'kmeans'"),
    "an unknown preset of a protocol": (NET + 'preset = "x"\n', "[[evaluation]] 1: unknown preset 'x'"),
    "an unknown data set": (NET.replace('"scenes"', '"scene"'), "unknown data set 'scene': did you mean 'scenes'"),
    "unknown images": (PRETRAIN.replace('"scenes"', '"imagnet"'), "unknown data 'imagnet': did you mean 'imagenet'"),
    "other labels": (NET.replace('"scenes"', '"davis2017"'), "davis2017 has videos; kmeans takes label maps"),
    "a data set twice": (NET.replace('["scenes"]', '["scenes", "scenes"]'), "datasets names scenes twice"),
    "no data set": (NET.replace('["scenes"]', "[]"), "datasets = []: it takes a text, or a list"),
    "an option that is wrong": (NET + "seeds = 0\n", "[[evaluation]] 1: --seeds 0: it must be at least 1"),
    "a limit of nothing": (NET + "limit = 0\n", "[[evaluation]] 1: limit = 0: it takes a whole number from 1"),
    "an unknown backbone": (NET + 'backbones = ["nett"]\n', "unknown name in backbones 'nett': did you mean 'net'"),
    "an unknown pretraining": (PRETRAIN + 'init = "pretrain:runn"\n', "unknown pretraining in init 'runn': did you mean 'run'"),
    "a checkpoint of nothing": (NET.replace("random:test_vit", "pretrain:a"), "[[backbone]] 1: unknown pretraining in spec 'a'"),
    "itself": (PRETRAIN + 'init = "pretrain:run"\n', "in a cycle, each starts from the next: run -> run"),
    "an unknown swept key": (PRETRAIN + "sweep.epoch = [1]\n", "unknown key in sweep 'epoch': did you mean 'epochs'"),
    "an empty sweep": (PRETRAIN + "sweep.epochs = []\n", "[[pretrain]] 1: sweep.epochs: it takes a list of one value or more"),
    "a key given and swept": (PRETRAIN + "epochs = 1\nsweep.epochs = [1]\n", "epochs is given and swept"),
    "a sweep without names": (PRETRAIN + "sweep.epochs = [1, 2]\n", "[[pretrain]] 1: the name 'run' is there twice; write {KEY}"),
    "an unknown placeholder": (
        PRETRAIN.replace('"run"', '"{epoch}"') + "sweep.epochs = [1]\n",
        "unknown placeholder in name 'epoch': did you mean 'epochs'",
    ),
    "epochs and steps": (PRETRAIN + "epochs = 1\nsteps = 1\n", "epochs and steps are given"),
    "the same evaluation twice": (NET + EVALUATION, "[[evaluation]] 2: net, kmeans, scenes is the same work as [[evaluation]] 1"),
    "the same pretraining twice": (
        PRETRAIN + PRETRAIN.replace('"run"', '"again"'),
        "[[pretrain]] 2: again is the same work as [[pretrain]] 1",
    ),
    "published without its table": ('published = "neco"\n' + NET, "published = neco: it takes PAPER:TABLE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_in_one_line(tmp_path, case):
    text, message = WRONG[case]
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "small.toml"))
    assert "\n" not in str(raised.value)


def test_a_cycle_of_several_is_named(tmp_path):
    other = PRETRAIN.replace('"run"', '"other"') + 'init = "pretrain:run"\n'
    with pytest.raises(UserError, match="each starts from the next: run -> other -> run; take the init of one"):
        read(tmp_path, PRETRAIN + 'init = "pretrain:other"\n' + other)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "small.toml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(UserError, match=r"small.toml is not TOML: .*; give a TOML file or a name of"):
        read_table(tmp_path / "small.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read the table .*small.toml: No such file"):
        read_table(tmp_path / "small.toml")


def test_runtime_options_make_no_other_work(tmp_path):
    with pytest.raises(UserError, match="is the same work as"):
        read(tmp_path, NET + EVALUATION + "batch_size = 4\n")
