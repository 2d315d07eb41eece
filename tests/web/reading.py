"""What stands in the HTML of an answer: links, calls, alternative texts."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

import numpy as np

from phosphene.web.shelf import Shelf


class Answer(HTMLParser):
    """The parts of an answer that tests ask for.

    Args:
        html: of the answer.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.stacks: list[dict[str, str | None]] = []
        self.calls: dict[str, str] = {}
        self.tags: list[str] = []
        self.text = ""
        self._call: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(found)
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if "data-npy" in found:
            self.stacks.append(found)
        if tag == "pre":
            self._call = found.get("data-code")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._call = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._call:
            self.calls[self._call] = self.calls.get(self._call, "") + data

    def arrays(self, shelf: Shelf) -> list[np.ndarray[Any, Any]]:
        """The raw maps that the answer lets one take away."""
        return [array_of(shelf, link) for link in self.links if link.endswith(".npy")]


def array_of(shelf: Shelf, address: str) -> np.ndarray[Any, Any]:
    """The array behind an address."""
    return np.load(io.BytesIO(bytes_of(shelf, address)), allow_pickle=False)


def bytes_of(shelf: Shelf, address: str) -> bytes:
    """The file behind an address."""
    found = shelf.get(*address.split("/")[-2:])
    assert found is not None
    return found[0]
