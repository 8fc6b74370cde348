"""What `densebench.evaluate` returns: the records that were made, as a frame, as a table, as one number, as a curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from densebench.console import one_line
from densebench.errors import UserError, out_of_memory
from densebench.results.summary import summary


@dataclass(frozen=True)
class Failure:
    """A cell that failed: the backbone, the data set, the protocol, and the error."""

    backbone: str
    dataset: str
    protocol: str
    error: BaseException = field(repr=False)

    @property
    def is_users(self) -> bool:
        """Whether the user can mend it: a UserError, or a lack of memory."""
        return isinstance(self.error, UserError) or self._lacks_memory

    @property
    def problem(self) -> str:
        """The error in one line."""
        text = (
            one_line(str(self.error).strip()) if isinstance(self.error, UserError) else str(self.error).strip().partition("\n")[0]
        )
        if self._lacks_memory:
            return f"the memory does not suffice; give smaller sizes or fewer points ({one_line(text)[:200]})"
        return text if isinstance(self.error, UserError) else one_line(f"{type(self.error).__name__}: {text}")

    @property
    def _lacks_memory(self) -> bool:
        return isinstance(self.error, MemoryError | RuntimeError | ValueError) and out_of_memory(self.error)


@dataclass(frozen=True, repr=False)
class Result:
    """The records of one call of `evaluate`, and what failed in it.

    records: as they are on disk, in the order in which they were made; of a dry run, what they would be, without scores.
    failures: the cells that have no record, since they failed.
    """

    records: list[dict[str, Any]]
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        """Return what the command prints: the headline of every record at every point."""
        return "\n".join(map(summary, self.records))
