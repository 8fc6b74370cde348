"""The simulated device refuses what would race: memory between streams, and page-locked memory under a copy."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics.host_copy import HostCopy
from densebench.numerics.packed_copy import packed_on_device


def on_another(stream, work):
    with torch.cuda.stream(stream):
        return work()


def test_a_stream_that_waits_may_use_what_another_one_has_written(cuda):
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    written = torch.ones(3, device="cuda") + 1
    side.wait_stream(main)
    doubled = on_another(side, lambda: 2 * written)
    written.record_stream(side)
    main.wait_event(side.record_event())
    found = doubled + 1
    doubled.record_stream(main)
    del written, doubled
    assert found.tolist() == [5, 5, 5]


def test_a_stream_that_does_not_wait_is_refused(cuda):
    side, written = torch.cuda.Stream(), torch.ones(3, device="cuda")
    with pytest.raises(
        RuntimeError, match=r"reads memory that another one has written, for which it did not wait .*test_streams"
    ):
        on_another(side, lambda: written + 1)


def test_an_event_that_was_recorded_too_early_is_refused(cuda):
    side, event = torch.cuda.Stream(), torch.cuda.Event()
    event.record()
    written = torch.ones(3, device="cuda")
    side.wait_event(event)
    with pytest.raises(RuntimeError, match="did not wait"):
        on_another(side, lambda: written + 1)


def test_an_event_of_another_stream_does_not_help(cuda):
    side, third = torch.cuda.Stream(), torch.cuda.Stream()
    written = torch.ones(3, device="cuda")
    side.wait_event(third.record_event())
    with pytest.raises(RuntimeError, match="did not wait"):
        on_another(side, lambda: written + 1)


def test_memory_that_another_stream_still_reads_is_not_written(cuda):
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    memory = torch.ones(3, device="cuda")
    side.wait_stream(main)
    on_another(side, lambda: memory + 1)
    with pytest.raises(RuntimeError, match="writes memory that another one has used"):
        memory.zero_()
    main.wait_stream(side)
    memory.zero_()


def test_the_host_that_has_waited_puts_all_in_order(cuda):
    side, written = torch.cuda.Stream(), torch.ones(3, device="cuda")
    torch.cuda.synchronize()
    found = on_another(side, lambda: written + 1)
    torch.cuda.synchronize()
    assert found.tolist() == [2, 2, 2]


def test_the_values_of_another_stream_are_not_read_before_it_is_done(cuda):
    side = torch.cuda.Stream()
    found = on_another(side, lambda: torch.ones(3, device="cuda") + 1)
    with pytest.raises(RuntimeError, match="did not wait"):
        found.tolist()


def freed_in_use(side, hold):
    """Free memory of the main stream that another stream reads; `hold`: after `record_stream`."""
    memory = torch.ones(3, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    on_another(side, lambda: memory + 1)
    if hold:
        memory.record_stream(side)


def test_memory_is_not_freed_under_another_stream(cuda):
    side = torch.cuda.Stream()
    freed_in_use(side, hold=True)
    torch.ones(1, device="cuda").add_(1)
    freed_in_use(side, hold=False)
    with pytest.raises(RuntimeError, match=r"freed while another stream may use it .*test_streams.*record_stream is missing"):
        torch.ones(1, device="cuda").add_(1)


def test_memory_may_be_freed_once_its_own_stream_has_waited(cuda):
    side = torch.cuda.Stream()
    memory = torch.ones(3, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    on_another(side, lambda: memory + 1)
    torch.cuda.current_stream().wait_stream(side)
    del memory
    torch.ones(1, device="cuda").add_(1)


def test_page_locked_memory_is_not_written_to_before_it_was_copied(cuda):
    source = torch.ones(3).pin_memory()
    copied = source.to("cuda", non_blocking=True)
    source.zero_()
    with pytest.raises(RuntimeError, match="page-locked memory was written to while it was copied to the device"):
        copied.sum().item()


def test_page_locked_memory_may_be_written_to_afterwards_and_freed_at_once(cuda):
    source, event = torch.ones(3).pin_memory(), torch.cuda.Event()
    copied = source.to("cuda", non_blocking=True)
    event.record()
    event.synchronize()
    source.zero_()
    freed = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert (copied + freed).tolist() == [2, 2, 2]


def test_an_array_that_was_packed_may_change_at_once(cuda):
    array = torch.arange(5).numpy()
    there = packed_on_device({"array": array}, torch.device("cuda"))["array"]
    array[:] = 0
    assert there.tolist() == [0, 1, 2, 3, 4]


def test_a_copy_to_the_host_that_another_stream_makes_is_complete(cuda):
    side, value = torch.cuda.Stream(), torch.arange(3, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    copy = on_another(side, lambda: HostCopy(value))
    value.record_stream(side)
    assert copy.value().tolist() == [0, 1, 2]


def test_an_event_of_one_stream_says_nothing_of_a_copy_on_another(cuda):
    side, value = torch.cuda.Stream(), torch.ones(3, device="cuda")
    target, event = torch.empty(3, pin_memory=True), torch.cuda.Event()
    torch.cuda.synchronize()
    on_another(side, lambda: target.copy_(value, non_blocking=True))
    value.record_stream(side)
    event.record()  # on the main stream
    event.synchronize()
    assert target.isnan().all()
    side.synchronize()
    assert target.tolist() == [1, 1, 1]
