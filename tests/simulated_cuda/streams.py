"""The order of operations on several streams: what would race on a GPU is refused.

Operations of one stream run in order. A stream, or the host, can rely on an operation of another stream only after it has waited
for it. Each operation has a time on its stream; a stream that waits knows up to which time each other stream is done (vector
clocks). Nothing is noted before a program makes a stream of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from simulated_cuda.report import line

Moment = tuple[int, int]
"""A stream, and the time of an operation on it."""
Known = dict[int, int]
"""Up to which time the work of each stream is done."""
MAIN = 0
MANY = 4096  # pieces of memory that are noted, before those that are gone are forgotten


@dataclass
class _Memory:
    """A piece of the device's memory: the stream that it was allocated on, and who has used it last."""

    storage: StorageWeakRef
    home: int
    written: Moment
    read: Known = field(default_factory=dict)
    held: set[int] = field(default_factory=set)  # by `record_stream`
    lent: dict[int, str] = field(default_factory=dict)  # other streams that have used it, and where


class Streams:
    """The streams of the device, the one that is current, and what is known of their work."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, with the main stream alone."""
        self.entered: list[int] = []
        self._made = 0
        self._time: Counter[int] = Counter()
        self._known: dict[int | None, Known] = {}  # by stream; None: by the host
        self._memory: dict[int, _Memory] = {}
        self._lent: list[_Memory] = []

    @property
    def watched(self) -> bool:
        """Whether there is more than one stream."""
        return self._made > 0

    @property
    def current(self) -> int:
        """The stream on which operations are queued."""
        return self.entered[-1] if self.entered else MAIN

    def make(self) -> int:
        """Return the number of a new stream."""
        self._made += 1
        return self._made

    def now(self, stream: int | None = None) -> Known:
        """Return what is done once all work of a stream (None: the current one) is done."""
        stream = self.current if stream is None else stream
        return _joined(self._known.get(stream, {}), self._known.get(None, {}), {stream: self._time[stream]})

    def wait(self, waiting: int | None, known: Known) -> None:
        """Let a stream (None: the host) wait until all that is in `known` is done."""
        self._known[waiting] = _joined(self._known.get(waiting, {}), known)

    def wait_for_all(self) -> None:
        """Let the host wait for all streams."""
        for stream in range(self._made + 1):
            self.wait(None, self.now(stream))

    def next(self) -> Moment:
        """Return the time of the next operation of the current stream."""
        self._time[self.current] += 1
        return self.current, self._time[self.current]

    def done(self, moment: Moment, waiting: int | None = None) -> bool:
        """Return whether a stream (None: the host) can rely on an operation being done."""
        stream, time = moment
        known = (self._known.get(who, {}).get(stream, -1) for who in {waiting, None})
        return stream == waiting or max(known) >= time

    def use(self, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor], made: Iterable[torch.Tensor]) -> None:
        """Note the next operation of the current stream. Raises RuntimeError for one that would race."""
        self.check_freed()
        if len(self._memory) > MANY:
            self._memory = {key: memory for key, memory in self._memory.items() if not memory.storage.expired()}
        moment = self.next()
        for tensor in made:
            self._allocated(tensor, moment)
        for tensor in read:
            memory = self._of(tensor)
            self._check(memory, memory.written, "reads", "written")
            memory.read[self.current] = moment[1]
        for tensor in written:
            memory = self._of(tensor)
            for before in (memory.written, *memory.read.items()):
                self._check(memory, before, "writes", "used")
            memory.written, memory.read = moment, {}

    def hold(self, tensor: torch.Tensor, stream: int) -> None:
        """Keep a tensor's memory until a stream has done what is queued on it now (`record_stream`)."""
        if self.watched:
            self._of(tensor).held.add(stream)

    def check_freed(self) -> None:
        """Raise RuntimeError for memory that was freed while a stream other than its own may still use it."""
        for memory in [memory for memory in self._lent if memory.storage.expired()]:
            self._lent.remove(memory)
            for stream, where in memory.lent.items():
                last = max(memory.read.get(stream, 0), memory.written[1] if memory.written[0] == stream else 0)
                if stream not in memory.held and not self.done((stream, last), memory.home):
                    raise RuntimeError(f"memory was freed while another stream may use it ({where}): record_stream is missing")

    def _check(self, memory: _Memory, moment: Moment, does: str, was: str) -> None:
        if not self.done(moment, self.current):
            raise RuntimeError(f"a stream {does} memory that another one has {was}, for which it did not wait ({line()})")
        if self.current != memory.home and self.current not in memory.lent:
            memory.lent[self.current] = line()
            self._lent += [] if memory in self._lent else [memory]

    def _of(self, tensor: torch.Tensor) -> _Memory:
        """Return the notes on a tensor's memory; without any, the main stream wrote it before there was another."""
        storage = StorageWeakRef(tensor.untyped_storage())
        known = self._memory.get(storage.cdata)
        if known is None or known.storage.expired():
            known = self._memory[storage.cdata] = _Memory(storage, MAIN, (MAIN, 0))
        return known

    def _allocated(self, tensor: torch.Tensor, moment: Moment) -> None:
        storage = StorageWeakRef(tensor.untyped_storage())
        known = self._memory.get(storage.cdata)
        if known is None or known.storage.expired():
            self._memory[storage.cdata] = _Memory(storage, self.current, moment)


def _joined(*parts: Known) -> Known:
    found: Known = {}
    for part in parts:
        for stream, time in part.items():
            found[stream] = max(time, found.get(stream, -1))
    return found


streams = Streams()
