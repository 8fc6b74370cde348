"""torch.compile of the blocks: one graph a size, the same numbers, the same state dict; off with one line where it fails."""

from __future__ import annotations

import copy

import pytest
import torch
from tiers import late
from torch._dynamo.utils import counters

from densebench.training import compiling
from densebench.training.compiling import StochasticDepth, compile_blocks
from densebench.training.networks import Network, create_encoder

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = (32, 48)
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile itself looks there


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Graphs are counted from none, and made without a C++ compiler."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def networks(drop_path=0.3, precision="fp32"):
    """A student with 12 blocks, of which each is dropped with another probability, and its teacher."""
    torch.manual_seed(0)
    encoder = create_encoder("vit_tiny_patch16_224", 32, drop_path)
    student = Network(encoder, torch.nn.Identity(), precision)
    teacher = copy.deepcopy(student).requires_grad_(False)
    for module in teacher.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    return student, teacher


def step(student, teacher):
    outputs = []
    for size in SIZES:
        images = torch.linspace(-1, 1, 2 * 3 * size * size).view(2, 3, size, size)
        with torch.no_grad():
            outputs.append(teacher.encode(images).patches)
        outputs.append(student.encode(images).patches)
        outputs[-1].sum().backward()
    return outputs


@pytest.mark.parametrize("drop_path", late([0.0, 0.3], 0.3))
@pytest.mark.parametrize("precision", late(["fp32", "bf16"], "bf16"))
def test_all_blocks_share_a_graph_for_each_size(drop_path, precision):
    """Twelve blocks, two networks, two sizes: four graphs, and one of the trial; after eight torch would run uncompiled."""
    student, teacher = networks(drop_path, precision)
    assert compile_blocks(student, teacher, True, CPU)
    for _ in range(2):
        step(student, teacher)
    assert counters["stats"]["unique_graphs"] == 5
    assert counters["frames"]["total"] == counters["frames"]["ok"] == 5
    assert not counters["graph_break"]


@pytest.mark.slow
def test_later_trainings_of_a_process_are_compiled_too():
    for number in range(1, 5):
        student, teacher = networks(0.0)
        for network in (student, teacher):
            network.encoder.model.blocks = network.encoder.model.blocks[:2]
        assert compile_blocks(student, teacher, True, CPU)
        images = torch.zeros(2 + number, 3, 32, 32)
        with torch.no_grad():
            teacher.encode(images)
        student.encode(images).patches.sum().backward()
        student.encode(images[:, :, :16, :16]).patches.sum().backward()
        assert counters["stats"]["unique_graphs"] == 1 + 3 * number


@pytest.mark.slow
def test_compiled_blocks_compute_the_same():
    plain, compiled = networks(0.0), networks(0.0)
    assert compile_blocks(*compiled, True, CPU)
    for one, other in zip(step(*plain), step(*compiled), strict=True):
        assert torch.equal(one, other)
    for (name, one), other in zip(plain[0].named_parameters(), compiled[0].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.slow
def test_state_dicts_keep_their_keys():
    plain, compiled = networks(), networks()
    assert compile_blocks(*compiled, True, CPU)
    for one, other in zip(plain, compiled, strict=True):
        assert {name: value.shape for name, value in one.state_dict().items()} == {
            name: value.shape for name, value in other.state_dict().items()
        }


@pytest.mark.slow
def test_each_block_keeps_its_probability_and_whether_it_drops():
    plain, compiled = networks(), networks()
    for network in (plain[0], compiled[0]):
        network.encoder.model.blocks[:6].eval()
    assert compile_blocks(*compiled, True, CPU)
    for network, other in zip(plain, compiled, strict=True):
        for block, its in zip(network.encoder.model.blocks, other.encoder.model.blocks, strict=True):
            for part, own in ((block.drop_path1, its.drop_path1), (block.drop_path2, its.drop_path2)):
                assert 1 - getattr(own, "keep", 1.0) == pytest.approx(getattr(part, "drop_prob", 0.0) or 0.0, abs=1e-6)
                assert part.training == own.training


def test_a_dropped_image_passes_and_the_others_are_scaled():
    torch.manual_seed(0)
    out = StochasticDepth(0.25)(torch.ones(4000, 2, 3))
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, (kept / 0.75)[:, None, None].expand_as(out))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(StochasticDepth(0.25).eval()(out), out)
    assert torch.equal(StochasticDepth(0.0)(out), out)


def test_the_cpu_compiles_only_where_it_is_told_to(capsys):
    assert not compile_blocks(*networks(), None, CPU)
    assert not compile_blocks(*networks(), False, GPU)
    assert capsys.readouterr().err == ""


def test_without_triton_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not compile_blocks(*networks(), None, GPU)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Triton is not installed" in said


@pytest.mark.parametrize("direction", late(["forward", "backward"], "forward"))
def test_a_compiler_that_fails_leaves_the_networks_as_they_were(direction, monkeypatch, capsys):
    def broken(graph, _):
        if direction == "forward":
            raise RuntimeError("no C compiler\nis at hand")

        def run(*arguments):
            outputs = graph(*arguments)
            for output in outputs:
                output.register_hook(lambda _: 1 / 0)
            return outputs

        return run

    monkeypatch.setattr(compiling, "BACKEND", broken)
    plain, other = networks(0.3), networks(0.3)
    assert not compile_blocks(*other, True, CPU)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "torch.compile is off" in said
    for networks_ in (plain, other):
        torch.manual_seed(1)
        networks_[0].zero_grad()
    torch.manual_seed(1)
    expected = step(*plain)
    torch.manual_seed(1)
    assert all(torch.equal(one, another) for one, another in zip(expected, step(*other), strict=True))
