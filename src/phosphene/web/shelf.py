"""Files of answers, in memory: each behind an address that nobody can guess, the oldest thrown away."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath

from phosphene.store import Asset, asset_bytes

_TYPES = {
    ".npy": "application/octet-stream",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".json": "application/json",
}


class Shelf:
    """What pages show and let download, for as long as there is room.

    Args:
        room: bytes in all.
        prefix: of the addresses.

    Example:
        >>> shelf = Shelf()
        >>> address = shelf.put({"note.json": Asset("note.json", "{}")})["note.json"]
        >>> shelf.get(*address.split("/")[-2:])
        (b'{}', 'application/json')
        >>> shelf.get("guessed", "note.json") is None
        True
    """

    def __init__(self, room: int = 256_000_000, prefix: str = "results") -> None:
        self.room, self.prefix = room, prefix
        self.used = 0
        self._answers: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, files: Mapping[str, Asset]) -> dict[str, str]:
        """Keep the files of one answer; the address of each, relative to the page."""
        token = secrets.token_urlsafe(18)
        content = {name: asset_bytes(asset) for name, asset in files.items()}
        with self._lock:
            self._answers[token] = content
            self.used += _size(content)
            while self.used > self.room and len(self._answers) > 1:
                self.used -= _size(self._answers.popitem(last=False)[1])
        return {name: f"{self.prefix}/{token}/{name}" for name in files}

    def get(self, token: str, name: str) -> tuple[bytes, str] | None:
        """A file and its media type; None where there is none, or none any more."""
        with self._lock:
            content = self._answers.get(token, {}).get(name)
        return None if content is None else (content, _TYPES.get(PurePath(name).suffix, "application/octet-stream"))


def _size(content: Mapping[str, bytes]) -> int:
    return sum(map(len, content.values()))
