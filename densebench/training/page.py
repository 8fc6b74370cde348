"""The page of a run, `RUN/index.html`: how far it is, its curves, probes, pictures, warnings and configuration.

It is made from the files of the run folder alone, so any run has one: `write_page(folder)`. With `--visualise`, a training
rewrites it as it goes (`LivePage`), and the page reloads itself, without a server. Its pictures are files beside it.
"""

from __future__ import annotations

from pathlib import Path

from densebench.errors import Stopped, UserError
from densebench.files.atomic import write_text
from densebench.pages.page import render
from densebench.pages.renewal import Renewal
from densebench.training.run_file import is_finished
from densebench.training.run_page import RunPage

NAME = "index.html"
EVERY = 10.0  # seconds from one page of a training to the next, at least
SHARE = 100  # a training spends at most one part in so many on its page


def write_page(folder: str | Path, state: str | None = None, about: str = "") -> Path:
    """Write the page of a run from the files in its folder, and return its path, `folder/index.html`.

    Whatever is missing or damaged is named on the page, and the rest is shown. state: running, finished, stopped or failed; None:
    finished or unfinished, by the files. about: a sentence on why it stopped. Raises UserError where the page cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run folder: there is no such folder; give the --output of a pretraining")
    state = state or ("finished" if is_finished(folder) else "unfinished")
    values = RunPage.read(folder, state, about).values()
    refresh = round(EVERY) if state == "running" else 0
    write_text(folder / NAME, render("page.html", room="densebench.training", refresh=refresh, **values))
    return folder / NAME


class LivePage:
    """The page of a running training. A page that cannot be written never ends a training: one warning says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._page = Renewal(folder / NAME, EVERY, SHARE, "the run goes on")

    def renew(self) -> None:
        """Write the page, unless it was written a moment ago."""
        if self._page.is_due:
            self._write("running")

    def close(self, error: BaseException | None) -> None:
        """Write the last page of a training, which ended with an error or, with None, is complete."""
        if error is None:
            self._write("finished")
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self._write("stopped", str(error))
        else:
            self._write("failed", f"The training ended with an error: {str(error) or type(error).__name__}")

    def _write(self, state: str, about: str = "") -> None:
        """Write the page, now."""
        self._page.write(lambda: write_page(self.folder, state, about))
