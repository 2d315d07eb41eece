"""How far things are, in a notebook, without asking: a bar below the cell that goes when all is done."""

from __future__ import annotations

import time
from html import escape
from importlib import import_module
from typing import Any, TypeVar

from phosphene.render import in_notebook

Progress = TypeVar("Progress")

# Seconds before a bar comes at all, and between two of its updates.
_PATIENCE, _BETWEEN = 0.5, 0.2


class NotebookBar:
    """A progress callback that shows itself: called with (done, in all) or (done, in all, what is being done).

    IPython's display is enough: the bars of tqdm and rich need widgets, which an installation may lack.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._begin()

    def _begin(self) -> None:
        self._begun, self._shown = time.monotonic(), 0.0

    def __call__(self, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        ended = done >= total
        if now - self._begun < _PATIENCE or (not ended and now - self._shown < _BETWEEN):
            return
        self._shown = now
        display = import_module("IPython.display")
        left = (now - self._begun) * (total - done) / max(1, done)
        bar = display.HTML(
            ""
            if ended
            else f"<progress value='{done}' max='{total}'></progress> {done}/{total} {escape(text)}, {left:.0f} s left"
        )
        if self._handle is None and not ended:
            self._handle = display.display(bar, display_id=True)
        elif self._handle is not None:
            self._handle.update(bar)
        if ended:  # what comes next begins anew, in the same place
            self._begin()


def told(progress: Progress | None) -> Progress | NotebookBar | None:
    """The progress callback that was given, or in a notebook a bar."""
    return NotebookBar() if progress is None and in_notebook() else progress
