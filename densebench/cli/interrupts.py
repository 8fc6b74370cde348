"""Ctrl-C at any moment: the first one stops the command, the second one ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


class Interrupts:
    """Ctrl-C: the first one is a KeyboardInterrupt, the second one ends the process at once and silently.

    Whatever is written goes to a temporary name and is then renamed, so ending at any moment loses no more than a kill would.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._process = os.getpid()

    def watch(self) -> None:
        """Handle Ctrl-C for as long as the process lives."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._interrupt)
            sys.unraisablehook = self._unless_stopped(sys.unraisablehook)
            threading.excepthook = self._unless_stopped(threading.excepthook)

    def leave(self) -> None:
        """Make every further Ctrl-C end the process: there is nothing left to stop."""
        self.stopped = True

    def _interrupt(self, _number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a forked process: the main one ends it
        if self.stopped:
            os._exit(130)
        self.stopped = True
        raise KeyboardInterrupt

    def _unless_stopped(self, hook: Any) -> Any:
        return lambda problem: None if self.stopped else hook(problem)
