"""Mistakes that a GPU would punish are caught on the simulated device, and what waits for it is counted at its line."""

from __future__ import annotations

import copy
import inspect
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from simulated_cuda import simulate
from torch import nn


def rows():
    return torch.arange(32.0, device="cuda").view(8, 4)


def bce_under_autocast():
    with torch.autocast("cuda", torch.bfloat16):
        F.binary_cross_entropy(rows().sigmoid(), torch.ones_like(rows()))


def untimed_events():
    first, second = torch.cuda.Event(), torch.cuda.Event()
    first.record()
    second.record()
    first.elapsed_time(second)


def deterministic_median():
    torch.use_deterministic_algorithms(True)
    try:
        rows().median(dim=0)
    finally:
        torch.use_deterministic_algorithms(False)


MISTAKES = {
    "weights on the CPU, rows on the GPU": (lambda: rows() @ torch.randn(4, 2), "same device"),
    "statistics left on the CPU": (lambda: (rows() - torch.zeros(4)) / torch.ones(4), "same device"),
    "numpy of a CUDA tensor": (lambda: rows().numpy(), "convert cuda:0"),
    "asarray of a CUDA tensor": (lambda: np.asarray(rows()), "convert cuda:0"),
    "a CUDA index into a CPU table": (lambda: torch.arange(9)[torch.tensor([1, 2], device="cuda")], "indices should be"),
    "values of the CPU put into CUDA rows": (lambda: rows().index_put_((torch.tensor([1]),), torch.zeros(1, 4)), "same device"),
    "a CPU generator for a CUDA draw": (lambda: torch.rand(3, device="cuda", generator=torch.Generator()), "generator"),
    "integer matrix product": (lambda: rows().long() @ rows().long().T, "not implemented"),
    "pinning a CUDA tensor": (lambda: rows().pin_memory(), "cannot pin"),
    "pinned memory on the device": (lambda: torch.zeros(3, device="cuda", pin_memory=True), "can be pinned"),
    "nearest upsampling of int64": (lambda: F.interpolate(rows().long()[None, None], 4, mode="nearest"), "not implemented"),
    "a target on the CPU": (lambda: F.cross_entropy(rows(), torch.zeros(8, dtype=torch.long)), "same device"),
    "cat of both": (lambda: torch.cat([rows(), torch.zeros(1, 4)]), "same device"),
    "in place into a CPU buffer": (lambda: torch.zeros(8, 4).add_(rows()), "same device"),
    "CUDA data in a CPU parameter": (lambda: setattr(rows(), "data", torch.zeros(8, 4)), "incompatible tensor type"),
    "BCE under autocast": (bce_under_autocast, "unsafe to autocast"),
    "eigenvectors in half precision": (lambda: torch.linalg.eigh((rows().T @ rows()).half()), "not implemented"),
    "no deterministic kernel": (deterministic_median, "deterministic"),
    "time between events without times": (untimed_events, "enable_timing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake, cuda):
    act, message = MISTAKES[mistake]
    with pytest.raises((RuntimeError, TypeError, NotImplementedError), match=message):
        act()


def trained(device):
    """Numbers of four steps of a small network on a device, with a slow copy and masks."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.LayerNorm(16)]
    net = nn.Sequential(*layers, nn.Linear(16, 5)).to(device)
    slow, optimiser = copy.deepcopy(net), torch.optim.AdamW(net.parameters(), 1e-2, fused=True)
    pixels, truth = torch.randn(6, 3, 8, 8).to(device), torch.tensor([0, 1, 2, 3, 4, 0]).to(device)
    for _ in range(4):
        loss = F.cross_entropy(net(pixels), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(slow.parameters()), [p.detach() for p in net.parameters()], 0.1)
    kept = pixels[torch.arange(6)[::2]][pixels[::2] > 0]
    return [loss.item(), kept.sum().item(), next(slow.parameters()).sum().item(), pixels.cpu().numpy().sum().item()]


def test_a_correct_training_gives_the_numbers_of_the_cpu():
    plain = trained("cpu")
    with simulate():
        assert trained("cuda") == plain


def test_half_precision_with_scaled_gradients_gives_the_numbers_of_the_cpu():
    def scaled(device):
        torch.manual_seed(0)
        net, rows = nn.Linear(4, 3).to(device), torch.randn(5, 4).to(device)
        optimiser, scaler = torch.optim.AdamW(net.parameters(), 0.1, fused=True), torch.amp.GradScaler(device)
        for _ in range(2):
            with torch.autocast(device, torch.bfloat16):
                loss = net(rows).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad()
        return loss.item(), scaler.get_scale()

    plain = scaled("cpu")
    with simulate():
        assert scaled("cuda") == plain


WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "if": lambda x: 1 if (x > 0).all() else 2,
    "tolist": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "to a type on the host": lambda x: x.to("cpu", torch.float64),
    "nonzero": lambda x: x.nonzero(),
    "where of one argument": lambda x: torch.where(x > 0),
    "a boolean mask": lambda x: x[x > 3],
    "assignment by a mask": lambda x: x.__setitem__(x > 3, x[0, 0]),
    "masked_select": lambda x: x.masked_select(x > 3),
    "bincount": lambda x: x.long().flatten().bincount(minlength=40),
    "unique": lambda x: x.unique(),
    "unique_consecutive": lambda x: x.flatten().unique_consecutive(),
    "repeat_interleave": lambda x: x.flatten().repeat_interleave(x.long().flatten()),
    "one_hot without a number of classes": lambda x: F.one_hot(x.long()),
    "equal": lambda x: torch.equal(x, x),
    "eigh": lambda x: torch.linalg.eigh(x.T @ x),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "a stream": lambda x: torch.cuda.current_stream().synchronize(),
}


@pytest.mark.parametrize("how", WAITING)
def test_a_wait_is_counted_at_its_line(how, cuda):
    x = rows()
    act = WAITING[how]
    act(x)
    [(where, count)] = cuda.lines("wait", "to host").items()
    assert count == 1
    assert where == f"tests/gpu/test_simulated_cuda.py:{act.__code__.co_firstlineno}"


NOT_WAITING = {
    "arithmetic": lambda x: (x * 2 + 1).clamp(0, 3).softmax(1),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "an index on the device": lambda x: x[x.long().argmax(0)],
    "nonzero_static": lambda x: torch.nonzero_static(x > 0, size=5),
    "repeat_interleave with a size": lambda x: x[0].repeat_interleave(x[0].long(), output_size=6),
    "one_hot with a number of classes": lambda x: F.one_hot(x.long(), 32),
    "quantile": lambda x: x.quantile(torch.tensor([0.5], device="cuda")),
    "sort and topk": lambda x: (x.sort(), x.topk(2), x.argsort()),
    "made on the device": lambda x: torch.arange(4, device="cuda") + x.new_zeros(4),
    "a slice": lambda x: x[:, 1:3].sum(),
}


@pytest.mark.parametrize("how", NOT_WAITING)
def test_what_stays_on_the_device_makes_nobody_wait(how, cuda):
    x = torch.arange(32, device="cuda").float().view(8, 4)
    before = cuda.total("to device")
    NOT_WAITING[how](x)
    if how != "quantile":
        assert cuda.total("to device") == before
    assert cuda.waits == 0
    assert cuda.total("kernel") > 0


BLOCKING = {
    "pageable": lambda: torch.zeros(4).to("cuda"),
    "pageable that may be late": lambda: torch.zeros(4).to("cuda", non_blocking=True),
    "page-locked that is waited for": lambda: torch.zeros(4).pin_memory().to("cuda"),
    "columns of page-locked memory": lambda: torch.zeros(4, 4).pin_memory()[:, 1:].to("cuda", non_blocking=True),
    "a list": lambda: torch.tensor([1, 2], device="cuda"),
    "new_tensor": lambda: torch.zeros(2, device="cuda").new_tensor([1.0]),
    "a list as an index": lambda: torch.zeros(4, device="cuda")[[1, 2]],
    "an index on the CPU": lambda: torch.zeros(4, device="cuda")[torch.tensor([1, 2])],
    "copy_": lambda: torch.zeros(4, device="cuda").copy_(torch.zeros(4)),
}


@pytest.mark.parametrize("how", BLOCKING)
def test_a_copy_to_the_device_that_blocks_is_counted(how, cuda):
    act = BLOCKING[how]
    act()
    assert cuda.lines("to device") == {f"tests/gpu/test_simulated_cuda.py:{act.__code__.co_firstlineno}": 1}


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.zeros(4, 4).pin_memory(),
        lambda: torch.empty(4, 4, pin_memory=True),
        lambda: torch.zeros(2, 4, 4).pin_memory()[1],
        lambda: torch.zeros(4).new_empty((4, 4), pin_memory=True),
    ],
    ids=["pin_memory", "a factory", "a part", "new_empty"],
)
def test_a_copy_from_page_locked_memory_is_queued(made, cuda):
    tensor = made()
    assert tensor.is_pinned()
    there = tensor.to("cuda", non_blocking=True)
    there.copy_(tensor, non_blocking=True)
    assert (cuda.total("queued"), cuda.total("to device")) == (2, 0)


def test_a_loader_pins_its_batches(cuda):
    data = torch.utils.data.TensorDataset(torch.zeros(4, 2))
    assert all(batch.is_pinned() for (batch,) in torch.utils.data.DataLoader(data, 2, pin_memory=True))


def test_what_is_copied_to_the_host_is_nonsense_until_the_host_has_waited(cuda):
    host, event = torch.empty(3, pin_memory=True), torch.cuda.Event()
    host.copy_(torch.ones(3, device="cuda"), non_blocking=True)
    event.record()
    assert host.isnan().all()
    event.synchronize()
    assert host.tolist() == [1, 1, 1]
    assert (cuda.waits, cuda.total("overlapped"), cuda.total("queued")) == (0, 1, 1)


def test_an_event_waits_for_what_was_queued_before_it_alone(cuda):
    first, second, event = torch.empty(1, pin_memory=True), torch.empty(1, pin_memory=True), torch.cuda.Event()
    first.copy_(torch.ones(1, device="cuda"), non_blocking=True)
    event.record()
    second.copy_(torch.ones(1, device="cuda"), non_blocking=True)
    event.synchronize()
    assert first.item() == 1
    assert second.isnan().all()
    torch.cuda.synchronize()
    assert second.item() == 1


def test_work_on_another_stream_is_done(cuda):
    x, stream = rows(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        y = x + 1
        x.record_stream(stream)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert cuda.waits == 0
    assert y.tolist() == (torch.arange(32.0).view(8, 4) + 1).tolist()


def test_threads_have_the_device(cuda):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).to("cuda").sum()))
    thread.start()
    thread.join()
    assert found[0].is_cuda
    assert found[0].item() == 2


def test_kernels_are_counted_and_views_are_not(cuda):
    x = rows()
    before = cuda.total("kernel")
    _ = x.view(4, 8).T[1:].detach()
    assert cuda.total("kernel") == before
    _ = x + 1
    line = inspect.currentframe().f_lineno - 1
    assert cuda.total("kernel") == before + 1
    assert cuda.lines("kernel")[f"tests/gpu/test_simulated_cuda.py:{line}"] == 1


def test_compiled_code_runs_as_it_is(cuda):
    net = nn.Linear(4, 2).to("cuda")
    net.compile()
    assert torch.equal(torch.compile(net)(rows()), torch.compile()(net)(rows()))


def test_nothing_is_left_behind():
    before = torch.zeros(1).is_pinned, torch.cuda.Event, torch.nn.Module._apply
    with simulate():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    assert (torch.cuda.Event, torch.nn.Module._apply) == before[1:]
    assert not torch.zeros(1).is_pinned()
